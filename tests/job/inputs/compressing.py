"""Compressed files that ordinary tools do not write, for tests."""

import bz2
import gzip
import lzma
import struct
import zlib

#: First 48 bits of a block of bz2, and of the end of its stream.
BLOCK = 0x314159265359
END = 0x177245385090


def bgzf(data: bytes, block_bytes: int = 60_000) -> bytes:
    """Compress as bgzip does."""
    parts = [data[i : i + block_bytes] for i in range(0, len(data), block_bytes)]
    return b"".join(map(bgzf_member, [*parts, b""]))


def bgzf_member(data: bytes) -> bytes:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    size = 12 + 6 + len(body) + 8
    extra = b"BC" + struct.pack("<HH", 2, size - 1)
    head = b"\x1f\x8b\x08\x04" + b"\0" * 4 + b"\0\xff" + struct.pack("<H", len(extra)) + extra
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


def members(compress, data: bytes, member_bytes: int) -> bytes:
    """Compress pieces of data by themselves, an empty one among them."""
    parts = [data[i : i + member_bytes] for i in range(0, len(data), member_bytes)]
    return b"".join(compress(part) for part in [*parts[:1], b"", *parts[1:]])


def zstd_frames(data: bytes, frame_bytes: int, *, sized: bool) -> bytes:
    """Compress as several frames, which state their sizes or do not, one to be skipped among them."""
    zstd = zstd_module()

    def frame(part: bytes) -> bytes:
        options = {zstd.CompressionParameter.checksum_flag: 1}
        if sized:
            return zstd.compress(part, options=options)
        compressor = zstd.ZstdCompressor(options=options)
        return compressor.compress(part) + compressor.flush()

    skipped = b"\x5a\x2a\x4d\x18" + struct.pack("<I", 5) + b"12345"
    return skipped + members(frame, data, frame_bytes) + skipped


def zstd_module():
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return zstd


COMPRESS = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def crc_of(data: bytes) -> int:
    """Return the checksum of a block, which has the bits of CRC-32 the other way round."""
    table = [0] * 256
    for i in range(256):
        value = i << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value >> 31 else value << 1) & 0xFFFFFFFF
        table[i] = value
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc << 8 & 0xFFFFFFFF) ^ table[crc >> 24 ^ byte]
    return ~crc & 0xFFFFFFFF


def bz2_block(data: bytes, selectors: str = "0") -> str:
    """Return the bits of a block that holds a few bytes; `selectors` are bits that are not used.

    They name one of three equal tables for each 50 symbols, in unary, so any bits will do in which
    no three ones follow one another. No byte may be there more than three times in a row.
    """
    rotations = sorted(range(len(data)), key=lambda i: data[i:] + data[:i])
    last = [data[i - 1] for i in rotations]
    used = sorted(set(data))
    # symbols: runs of the front byte, others by their place, the end
    front, symbols, zeros = list(used), [], 0

    def end_run():
        nonlocal zeros
        while zeros:
            symbols.append((zeros - 1) % 2)
            zeros = (zeros - 1) // 2

    for byte in last:
        place = front.index(byte)
        if not place:
            zeros += 1
            continue
        end_run()
        front.insert(0, front.pop(place))
        symbols.append(place + 1)
    end_run()
    n_symbols = len(used) + 2
    symbols.append(n_symbols - 1)
    width = max(1, (n_symbols - 1).bit_length())
    groups = [0] * 16
    for byte in used:
        groups[byte // 16] |= 0x8000 >> byte % 16
    bits = f"{BLOCK:048b}{crc_of(data):032b}0{rotations.index(0):024b}"
    bits += "".join("1" if group else "0" for group in groups)
    bits += "".join(f"{group:016b}" for group in groups if group)
    needed = -(-len(symbols) // 50)
    selectors += "0" * needed
    bits += f"{3:03b}{selectors.count('0'):015b}{selectors}"
    bits += (f"{width:05b}" + "0" * n_symbols) * 3
    return bits + "".join(f"{symbol:0{width}b}" for symbol in symbols)


def bz2_stream(blocks: list[str]) -> bytes:
    """Return a stream of such blocks."""
    crc = 0
    for block in blocks:
        crc = (crc << 1 & 0xFFFFFFFF | crc >> 31) ^ int(block[48:80], 2)
    bits = "".join(blocks) + f"{END:048b}{crc:032b}"
    bits += "0" * (-len(bits) % 8)
    return b"BZh9" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def flip(data: bytes, at: int) -> bytes:
    """Return the data with one bit changed."""
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
