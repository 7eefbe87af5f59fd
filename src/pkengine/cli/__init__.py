"""The commands pkengine and pkagent."""
