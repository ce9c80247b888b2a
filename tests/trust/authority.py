"""Certificate authorities of tests, and what they sign."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates, and writes them as files into a folder."""

    def __init__(self, folder, name):
        self._folder = Path(folder)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        certificate = _sign(self._name, self._key, self._name, self._key, is_authority=True)
        #: the path of its own certificate
        self.ca = self._write(f"{name}.ca", _pem(certificate))

    def issue(self, name, *, since=-DAY, until=DAY):
        """Make a key and a certificate that is good from now + `since` to now + `until`; return both paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(_common_name(name), key, self._name, self._key, since=since, until=until)
        return self._write(f"{name}.cert", _pem(certificate)), self._write(f"{name}.key", key_pem(key))

    def _write(self, name, data):
        path = self._folder / name
        path.write_bytes(data)
        return str(path)


def key_pem(key, passphrase=None):
    """Return a private key as PEM, encrypted if there is a passphrase."""
    cipher = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)


def _sign(subject, key, issuer, issuer_key, *, since=-DAY, until=DAY, is_authority=False):
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since)
        .not_valid_after(now + until)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _common_name(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)
