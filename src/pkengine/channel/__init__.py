"""Records, JSON-RPC both ways, and the connections that carry them."""

from pkengine.channel.connection import Channel
from pkengine.channel.endpoints import ChannelListener, connect_channel, listen_channel
from pkengine.channel.incoming import Verbs

__all__ = ["Channel", "ChannelListener", "Verbs", "connect_channel", "listen_channel"]
