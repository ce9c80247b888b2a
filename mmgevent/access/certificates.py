"""TLS certificates of the user's own, for those who have a PKI, in addition to the password.

None are needed. With them a server shows a certificate that its clients check against an authority.
A server with an authority accepts only clients that have a certificate of it. Both still prove the
password. Names in certificates are not compared, since machines are known by address here: who has
a certificate of the authority, and the password, may be the server.

The files are read once, at the start. So whatever is wrong with them is found then.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mmgevent.errors import AuthenticationError, UsageError


class Certificates(NamedTuple):
    """Paths of PEM files: what this side shows, and what it demands of the other side."""

    #: the certificate of this side, and those between it and its authority; None if a server makes
    #: its own, and a client has none
    cert: str | None = None
    #: its private key, without a passphrase; None if that is in `cert`
    key: str | None = None
    #: authorities; the other side must have a certificate of one of them, if this is set
    ca: str | None = None

    def load_own(self, context: Any) -> bytes | None:
        """Let an SSLContext show `cert`. Return its SHA-256 in DER, or None if there is none.

        Raises AuthenticationError for files that cannot be read, do not fit together or have
        expired, and UsageError for a key without a certificate.
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
        """Let an SSLContext refuse peers without a certificate of `ca`, if that is set.

        Raises AuthenticationError for a file that cannot be read or has no certificates.
        """
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
        """Raise UsageError if peers that all have this would refuse one another."""
        if self.ca is not None and self.cert is None:
            raise UsageError(
                "each of several equals may be the server: with --tls-ca they need --tls-cert, too"
            )

    def _describe_misfit(self, error: Any) -> str:
        path = self.key or self.cert
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"the key in {path} is not that of the certificate {self.cert}"
        return f"{path} holds no private key in PEM that can be used without a passphrase"


#: No certificates of the user's own.
NO_CERTIFICATES = Certificates()


def _check(path: str) -> bytes:
    """Return the first certificate of a file in DER.

    Raises AuthenticationError if there is none, or none that is valid now.
    """
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
    """Answer OpenSSL, which would ask the terminal otherwise."""
    return ""
