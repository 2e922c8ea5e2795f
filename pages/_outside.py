"""Nobody outside is asked anything, not even which address this machine has.

When a WebSocket comes from a foreign page, Streamlit looks the machine's public address up
at a service on the internet, to see whether the page is its own. Which hosts are our own
says `server.allowedHosts`; a page of another is refused without asking.
"""

from streamlit import net_util


def ask_nobody() -> None:
    """From now on Streamlit knows no public address and does not look for one."""
    net_util.get_external_ip = _no_address


def _no_address() -> None:
    return None
