"""The RSA key pairs under which customers wrap key material."""

import threading
from collections import deque

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

BITS = {"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}
_HASHES = {"RSAES_OAEP_SHA_256": hashes.SHA256, "RSAES_OAEP_SHA_1": hashes.SHA1}
ALGORITHMS = frozenset(_HASHES)
MATERIAL_BYTES = 32


class NotUnwrapped(ValueError):
    """The bytes do not unwrap to a 256-bit key."""


def unwrap(private_key: bytes, algorithm: str, wrapped: bytes) -> bytes:
    """The 32 bytes that were wrapped. `private_key` is DER (PKCS8); raises NotUnwrapped."""
    key = serialization.load_der_private_key(private_key, None)
    digest = _HASHES[algorithm]
    oaep = padding.OAEP(mgf=padding.MGF1(digest()), algorithm=digest(), label=None)
    try:
        material = key.decrypt(wrapped, oaep)
    except ValueError as error:
        raise NotUnwrapped from error
    if len(material) != MATERIAL_BYTES:
        raise NotUnwrapped
    return material


def private_bytes(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_bytes(key: rsa.RSAPrivateKey) -> bytes:
    """DER SubjectPublicKeyInfo, as GetParametersForImport returns it."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class WrappingKeys:
    """Pairs on demand; RSA-4096 ones, which take up to seconds, are made ahead by a thread."""

    def __init__(self, ready: int) -> None:
        self._wanted = ready
        self._pairs: deque[rsa.RSAPrivateKey] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._fill, name="kms-wrapping-keys", daemon=True)
        if ready:
            self._thread.start()

    def take(self, spec: str) -> rsa.RSAPrivateKey:
        if BITS[spec] == 4096:
            with self._changed:
                if self._pairs:
                    self._changed.notify()
                    return self._pairs.popleft()
        return rsa.generate_private_key(public_exponent=65537, key_size=BITS[spec])

    def _fill(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or len(self._pairs) < self._wanted)
                if self._is_closed:
                    return
            pair = rsa.generate_private_key(public_exponent=65537, key_size=4096)
            with self._changed:
                self._pairs.append(pair)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
