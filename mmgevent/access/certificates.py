"""Certificates of the user's own, for those who have a PKI: what they add to the password.

None are needed. With them a server shows a certificate that its clients can check against an
authority, and a server that is given an authority lets in nobody who has no certificate of it;
the password is proved over the connection all the same. Names in certificates are not
compared: machines are known by address here, and who has one of the authority's certificates
and the password is as much the server as any other.

Whatever is wrong with the files is found when they are read, once, at the start.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mmgevent.errors import AuthenticationError, UsageError


class Certificates(NamedTuple):
    """Paths of PEM files; what this side shows, and what it asks the other side for."""

    #: the certificate of this side, and those between it and its authority; None: a server makes one, a client has none
    cert: str | None = None
    #: its private key, without a passphrase; None: it stands in `cert`
    key: str | None = None
    #: authorities; with it the other side must have a certificate of one of them
    ca: str | None = None

    def load_own(self, context: Any) -> bytes | None:
        """Let an SSLContext show `cert`; return its SHA-256 in DER, None if there is none.

        AuthenticationError for files that cannot be read, do not fit or have expired, UsageError for a key alone.
        """
        if self.cert is None:
            if self.key is not None:
                raise UsageError(f"the key {self.key} is of no use without its certificate: add --tls-cert")
            return None
        import hashlib
        import ssl

        encoded = _check(self.cert)
        try:
            context.load_cert_chain(self.cert, self.key, _refuse_passphrase)
        except ssl.SSLError as error:
            raise AuthenticationError(self._describe_misfit(error)) from error
        except OSError as error:
            path = self.key or self.cert
            raise AuthenticationError(f"cannot read the key {path}: {error.strerror or error}") from error
        return hashlib.sha256(encoded).digest()

    def load_authorities(self, context: Any) -> None:
        """Let an SSLContext refuse whoever has no certificate of `ca`, if there is one; AuthenticationError."""
        if self.ca is None:
            return
        import ssl

        _read(self.ca, "certificates of authorities")
        try:
            context.load_verify_locations(self.ca)
        except (ssl.SSLError, OSError) as error:
            raise AuthenticationError(f"{self.ca} holds no certificates of authorities in PEM") from error
        context.verify_mode = ssl.CERT_REQUIRED

    def check_for_equals(self) -> None:
        """Raise UsageError if those who ask this of one another would all refuse one another."""
        if self.ca is not None and self.cert is None:
            raise UsageError(
                "each of several equals may be the server: with --tls-ca they need --tls-cert, too"
            )

    def _describe_misfit(self, error: Any) -> str:
        path = self.key or self.cert
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"the key in {path} is not that of the certificate {self.cert}"
        return f"{path} holds no private key in PEM that can be used without a passphrase"


#: what everybody has who was given none
NO_CERTIFICATES = Certificates()


def _check(path: str) -> bytes:
    """Return the first certificate of a file in DER; AuthenticationError if it is none that is good now."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    data = _read(path, "the certificate")
    try:
        certificate = x509.load_pem_x509_certificates(data)[0]
    except ValueError as error:
        raise AuthenticationError(f"{path} holds no certificate in PEM") from error
    now = datetime.datetime.now(datetime.UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise AuthenticationError(
            f"the certificate {path} has expired: it was valid until {end:%Y-%m-%d %H:%M} UTC"
        )
    if now < begin:
        raise AuthenticationError(f"the certificate {path} is not valid before {begin:%Y-%m-%d %H:%M} UTC")
    return certificate.public_bytes(Encoding.DER)


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise AuthenticationError(f"cannot read {what} {path}: {error.strerror or error}") from error


def _refuse_passphrase() -> str:
    """Answer OpenSSL, which would otherwise ask the terminal."""
    return ""
