"""The page that a guest's web server shows."""

import requests


def guest_page(address: str, port: int) -> str:
    """What a guest's server shows there; nothing if none answers.

    passt takes a connection before the guest does: a request to a guest that boots may be heard by nobody and time out.
    """
    try:
        return requests.get(f"http://{address}:{port}/", timeout=20).text
    except (requests.ConnectionError, requests.Timeout):
        return ""
