"""Log in (RFC 4252): every credential is offered once, and the server's words are kept."""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import DISCONNECT_AUTH_CANCELLED_BY_USER
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pkengine.errors import SshAuthenticationFailed, SshError
from pkengine.keys import Secret, SshPublicKey
from pkengine.ssh.key_agent import Signer
from pkengine.ssh.login_signature import LoginRequest
from pkengine.ssh.quiet_log import QUIET_LOG
from pkengine.ssh.transport import SshTransport
from pkengine.ssh.wire import MalformedMessage, Reader, readable, string

SshPrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

MSG_USERAUTH_REQUEST = 50
MSG_USERAUTH_FAILURE = 51
MSG_USERAUTH_SUCCESS = 52
MSG_USERAUTH_BANNER = 53
#: Means PK_OK, PASSWD_CHANGEREQ or INFO_REQUEST, as the method has it.
MSG_USERAUTH_60 = 60
MSG_USERAUTH_INFO_RESPONSE = 61

#: How many keys of an agent are offered: OpenSSH's server hangs up after six failures, and the
#: engine's key and the password want to be among them.
MAX_AGENT_KEYS = 4
#: How many rounds of questions, and how many refusals, are borne with.
_MAX_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class SshCredentials:
    """What proves the user to the host.

    Attributes:
        password: for ``password`` or, where the host has only that,
            ``keyboard-interactive``.
        keys: for ``publickey``, which are tried first, in this order; private keys of
            `cryptography`.
        agent: has further keys for ``publickey``, of which the first few are tried next.
        sudo_password: what sudo asks for; None means the password.
    """

    password: Secret | None = None
    keys: tuple[SshPrivateKey, ...] = field(default=(), repr=False)
    sudo_password: Secret | None = None
    agent: Signer | None = None

    @property
    def for_sudo(self) -> Secret | None:
        """The password for sudo, if there is one."""
        return self.sudo_password if self.sudo_password is not None else self.password


class LoginService(SSHService):
    """The client's end of ``ssh-userauth``.

    It asks first which methods the host accepts (method ``none``), so that no password goes
    to a host which takes none.  Then it offers the keys, then those of the agent, then the
    password, each at most once and only by a method that the host named.

    Args:
        user: the name to log in as.
        credentials: what to offer.
        next_service: runs on the connection after success.

    Attributes:
        done: fires with the method that completed the login; ``none`` where the host asked
            for no proof.  Fails with `SshAuthenticationFailed`.
        accepted_key: the key by which the login was completed, or None.
    """

    name = b"ssh-userauth"
    _log = QUIET_LOG
    transport: SshTransport

    def __init__(self, user: str, credentials: SshCredentials, next_service: SSHService) -> None:
        self.done: Deferred[str] = Deferred()
        self._user = user
        self._next_service = next_service
        self._keys = deque(credentials.keys)
        self.accepted_key: SshPublicKey | None = None
        self._agent = credentials.agent
        self._agent_keys = deque(self._agent.keys[:MAX_AGENT_KEYS] if self._agent else ())
        self._asked: SshPublicKey | None = None
        self._password = credentials.password
        self._has_credentials = bool(self._keys or self._agent_keys or self._password)
        self._method = ""
        self._methods: list[str] = []
        self._tried: list[str] = []
        self._accepted: list[str] = []
        self._banner = b""
        self._notes: list[str] = []
        self._remarks: list[str] = []
        self._rounds = 0
        self._is_decided = False

    def serviceStarted(self) -> None:
        """Ask which methods the host accepts for this user."""
        self.transport.stage = "its decision on the login"
        self._request("none")

    def serviceStopped(self) -> None:
        """Give up where the connection ended during the login."""
        if not self._is_decided:
            self._is_decided = True
            reason = self.transport.ended_by
            assert reason is not None
            if self._tried:
                words = self._story()
                reason = SshAuthenticationFailed(
                    f"The login as {self._user} on {self.transport.where} failed: {reason} {words}"
                )
            self.done.errback(Failure(reason))

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Take a message of the server."""
        reader = Reader(packet)
        if messageNum == MSG_USERAUTH_FAILURE:
            self._refused(reader.name_list(), reader.boolean())
        elif messageNum == MSG_USERAUTH_SUCCESS:
            self._succeeded()
        elif messageNum == MSG_USERAUTH_BANNER:
            self._banner = self._banner or reader.string()
        elif messageNum == MSG_USERAUTH_60 and self._asked is not None:
            self._sign_by_agent(reader)
        elif messageNum == MSG_USERAUTH_60 and self._method == "password":
            self._fail("its password has expired: log in by hand and change it.")
        elif messageNum == MSG_USERAUTH_60 and self._method == "keyboard-interactive":
            self._answer(reader)
        else:
            raise MalformedMessage(f"message {messageNum} during the login")

    def _request(self, method: str, rest: bytes = b"") -> None:
        self._method = method
        self.transport.sendPacket(MSG_USERAUTH_REQUEST, self._head(method) + rest)

    def _head(self, method: str) -> bytes:
        return b"".join(
            map(string, (self._user.encode(), self._next_service.name, method.encode()))
        )

    def _succeeded(self) -> None:
        self._is_decided = True
        if self._method != "publickey":
            self.accepted_key = None
        self._password = None
        self._keys.clear()
        self._agent_keys.clear()
        self.transport.setService(self._next_service)
        self.done.callback(self._method)

    def _refused(self, methods: list[str], is_partial: bool) -> None:
        self._methods = methods
        self._asked = None
        self._rounds += 1
        if self._rounds > _MAX_ROUNDS:
            raise MalformedMessage("too many answers to one login")
        if is_partial:
            self._accepted.append(self._method)
        offer = self._next_offer()
        if offer is None:
            self._fail_for_good()
        else:
            method, send = offer
            self._tried.append(method)
            send()

    def _next_offer(self) -> tuple[str, Callable[[], None]] | None:
        if self._keys and "publickey" in self._methods:
            return "publickey", self._offer_key
        if self._agent_keys and "publickey" in self._methods:
            return "publickey", self._ask_about_agent_key
        if self._password is not None and "password" in self._methods:
            return "password", self._offer_password
        if self._password is not None and "keyboard-interactive" in self._methods:
            return "keyboard-interactive", self._ask_for_questions
        return None

    def _offer_key(self) -> None:
        """Sign at once (RFC 4252 §7): the signature is worth nothing on another connection."""
        key = Key(self._keys.popleft())
        self.accepted_key = SshPublicKey.from_blob(key.public().blob())
        algorithm: bytes = key.sshType()
        if algorithm == b"ssh-rsa":
            algorithm = self._rsa_algorithm()
        public = b"\x01" + string(algorithm) + string(key.public().blob())
        session = string(self.transport.sessionID or b"")
        request = bytes((MSG_USERAUTH_REQUEST,)) + self._head("publickey") + public
        self._request("publickey", public + string(key.sign(session + request, algorithm)))

    def _ask_about_agent_key(self) -> None:
        """Ask whether the key would do, before its owner is bothered to sign with it."""
        self._asked = self.accepted_key = self._agent_keys.popleft()
        public = string(self._agent_algorithm()) + string(self._asked.blob)
        self._request("publickey", b"\0" + public)

    def _agent_algorithm(self) -> bytes:
        assert self._asked is not None
        key_type = self._asked.key_type
        if not key_type.startswith("ssh-rsa"):
            return key_type.encode()
        return self._rsa_algorithm() + key_type.removeprefix("ssh-rsa").encode()

    def _sign_by_agent(self, reader: Reader) -> None:
        """The host would take the key: let the agent sign."""
        assert self._asked is not None
        assert self._agent is not None
        key, algorithm = self._asked, self._agent_algorithm()
        if (reader.string(), reader.string()) != (algorithm, key.blob):
            raise MalformedMessage("the host accepts a key that was not offered")
        binding = self.transport.binding
        assert binding is not None
        public = b"\x01" + string(algorithm) + string(key.blob)
        request = LoginRequest(binding.session_id, self._user, algorithm.decode(), key)
        signing = self._agent.sign(key, request.to_sign(), request.algorithm, binding)
        signing.addCallbacks(
            lambda signature: self._send_agent_signature(key, public, signature),
            lambda failure: self._agent_refused(key, failure),
        )

    def _send_agent_signature(self, key: SshPublicKey, public: bytes, signature: bytes) -> None:
        if key == self._asked and not self._is_decided:
            self._asked = None
            self._request("publickey", public + string(signature))

    def _agent_refused(self, key: SshPublicKey, failure: Failure) -> None:
        """Go on with what is left, as if the host had refused the key."""
        if key == self._asked and not self._is_decided:
            self._remarks.append(f"Also, {readable(failure.getErrorMessage())}.")
            self._refused(self._methods, is_partial=False)

    def _rsa_algorithm(self) -> bytes:
        """Choose the hash that the server names (RFC 8308 §3.1), never SHA-1."""
        known = self.transport.peerExtensions.get(b"server-sig-algs", b"").split(b",")
        if b"rsa-sha2-256" in known and b"rsa-sha2-512" not in known:
            return b"rsa-sha2-256"
        return b"rsa-sha2-512"

    def _offer_password(self) -> None:
        self._request("password", b"\0" + string(self._take_password()))

    def _take_password(self) -> bytes:
        assert self._password is not None
        password, self._password = self._password.reveal(), None
        return password

    def _ask_for_questions(self) -> None:
        self._request("keyboard-interactive", string(b"") + string(b""))

    def _answer(self, reader: Reader) -> None:
        """Answer one hidden question with the password, and no other (RFC 4256)."""
        self._rounds += 1
        if self._rounds > _MAX_ROUNDS:
            raise MalformedMessage("too many questions")
        heading = [readable(text) for text in (reader.string(), reader.string()) if text.strip()]
        reader.string()
        count = reader.uint32()
        if count > len(reader.rest) // 5:
            raise MalformedMessage("a message ends before its last field")
        prompts = [(readable(reader.string()), reader.boolean()) for _ in range(count)]
        self._notes += heading
        if not prompts:
            answers = []
        elif len(prompts) == 1 and not prompts[0][1] and self._password is not None:
            answers = [self._take_password()]
        else:
            asked = ", ".join(repr(prompt) for prompt, _ in prompts)
            self._fail(
                f"it asks {asked}, which the password does not answer. Log in with a key, or "
                "let this user in by password alone."
            )
            return
        body = struct.pack(">I", len(answers)) + b"".join(map(string, answers))
        self.transport.sendPacket(MSG_USERAUTH_INFO_RESPONSE, body)

    def _fail_for_good(self) -> None:
        refused = [method for method in self._tried if method not in self._accepted]
        if refused:
            what = {"publickey": "the key" if refused.count("publickey") == 1 else "the keys"}
            names = " and ".join(dict.fromkeys(what.get(m, "the password") for m in refused))
            self._fail(
                f"it does not accept {names}. Check the user and {names}, and that sshd lets "
                "this user in (PermitRootLogin, AllowUsers, authorized_keys)."
            )
        elif self._accepted:
            self._fail("it accepted what was offered, but wants more.")
        elif not self._has_credentials:
            self._fail("neither a password nor a key was given.")
        else:
            self._fail("it accepts none of the ways for which there is a credential.")

    def _fail(self, why: str) -> None:
        error: SshError = SshAuthenticationFailed(
            f"{self.transport.where} refuses the login as {self._user}: {why} {self._story()}"
        )
        self._is_decided = True
        self.done.errback(Failure(error))
        self.transport.disconnect(error, DISCONNECT_AUTH_CANCELLED_BY_USER)

    def _story(self) -> str:
        """Say what was tried and what the server said."""
        tried = Counter(self._tried)
        parts = [
            f"Tried, once each: {', '.join(map(_counted, tried.items())) or 'nothing'}.",
            f"The host accepts: {readable(', '.join(self._methods)) or 'nothing'}.",
        ]
        if self._accepted:
            parts.append(f"Accepted as one part: {', '.join(self._accepted)}.")
        for words in (readable(self._banner), *self._notes):
            if words:
                parts.append(f"It says: '{words}'.")
        return " ".join((*parts, *self._remarks))


def _counted(item: tuple[str, int]) -> str:
    method, keys = item
    return method if keys == 1 else f"{method} with {keys} keys"
