"""Fetch web pages, and list for each link the pages that contain it.

    $ mmg-run examples/crawl.py https://example.org/ https://example.com/ ...
    $ xargs mmg-run -o links.jsonl examples/crawl.py < urls.txt

Shows: map functions that wait. With the option greenlets each executor works on that many items at
once, in plain blocking code: while one page is awaited, others are fetched.

- A page that cannot be fetched gives a record that says why. An exception instead would set the
  page aside, and the job would fail if more than a tenth of the pages did that.
- retransmit=0 makes sure that no page is fetched twice because it is slow.
- A page that hangs for minutes costs its executor, and is set aside in the end.

To follow the links, submit another job with the new ones, as kmeans.py does with its centres.
"""

import argparse
import html.parser
import http.client
import urllib.parse
import urllib.request

TIMEOUT_S = 20.0  # of silence, seconds
MAX_PAGE_BYTES = 4 * 1024 * 1024  # the rest of a page is not read

parser = argparse.ArgumentParser(prog="crawl.py")
parser.add_argument("urls", nargs="+", metavar="URL")

datasource = [(url, None) for url in parser.parse_args().urls]
options = {"greenlets": 50, "retransmit": 0, "task_timeout": 300.0, "max_skipped": 0.1}


class LinkFinder(html.parser.HTMLParser):
    """Gathers where the links of a page lead: each once, without the part after #."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.links = set()

    def handle_starttag(self, tag, attributes):
        target = dict(attributes).get("href")
        if tag != "a" or not target:
            return
        try:
            link = urllib.parse.urldefrag(urllib.parse.urljoin(self.base, target)).url
        except ValueError:
            return  # people write anything into pages
        if link.startswith(("http://", "https://")):
            self.links.add(link)


def mapfn(url, _):
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            if response.headers.get_content_type() != "text/html":
                return
            finder = LinkFinder(response.url)
            encoding = response.headers.get_content_charset("utf-8")
            text = response.read(MAX_PAGE_BYTES).decode(encoding, "replace")
    except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
        yield f"error: {error}", url  # refused, not found, no such name, no URL, no such encoding
        return
    finder.feed(text)
    for link in finder.links:
        yield link, url


def reducefn(link, pages):
    return sorted(set(pages))
