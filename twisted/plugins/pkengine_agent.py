"""Declares ``twistd pkagent``."""

from twisted.application.service import ServiceMaker

pkengine_agent = ServiceMaker(
    "pkengine agent",
    "pkengine.agent.options",
    "Answers the engines that manage this host.",
    "pkagent",
)
