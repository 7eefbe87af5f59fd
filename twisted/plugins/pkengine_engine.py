"""Declares ``twistd pkengine``."""

from twisted.application.service import ServiceMaker

pkengine_engine = ServiceMaker(
    "pkengine engine",
    "pkengine.engine.options",
    "Manages hosts, and serves their REST API.",
    "pkengine",
)
