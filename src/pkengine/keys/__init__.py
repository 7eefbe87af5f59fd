"""Key pairs, self-signed certificates, pins and fingerprints, and their text forms."""

from pkengine.keys.keypair import KeyPair, KeyType
from pkengine.keys.pin import Pin
from pkengine.keys.secret import Secret
from pkengine.keys.ssh import SshFingerprint, SshPublicKey

__all__ = ["KeyPair", "KeyType", "Pin", "Secret", "SshFingerprint", "SshPublicKey"]
