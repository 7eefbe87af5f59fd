"""Declares the mechanisms of pkengine, and the endpoint strings that begin with ``pk:``."""

from pkengine.auth.mechanisms import AuthenticatorPlugin
from pkengine.auth.strings import ClientParser, ServerParser

pin = AuthenticatorPlugin("pin", "pkengine.auth.pin.PinAuthenticator.from_folder")
sign = AuthenticatorPlugin("sign", "pkengine.auth.sigma.SignAuthenticator.from_folder")
hmac = AuthenticatorPlugin("hmac", "pkengine.auth.akep2.HmacAuthenticator.from_folder")
spake2plus = AuthenticatorPlugin(
    "spake2plus", "pkengine.auth.pake.Spake2PlusAuthenticator.from_folder"
)

server = ServerParser()
client = ClientParser()
