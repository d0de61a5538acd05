"""An address that a provider is to fetch is judged, however it is written and wherever it stands."""

from __future__ import annotations

from typing import Any

import pytest

from worker.services.pictures import ForbiddenPicture, check
from worker.webhooks.address import PUBLIC_ONLY

INSIDE = "http://169.254.169.254/latest"


def asked(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]}


@pytest.mark.parametrize(
    "url",
    [
        INSIDE,
        f" {INSIDE}",  # whoever reads URLs as browsers do takes these away before it looks at the scheme
        f"\x00\x1f{INSIDE}",
        f"\ufeff\u00a0{INSIDE}",
        f"\t{INSIDE}\n",
        "ht\ttp://169.254.169.254/latest",
        "HTTP\n://169.254.169.254/latest",
        "http:169.254.169.254/latest",
        "file:///etc/passwd",
        "ftp://10.0.0.1/x",
    ],
)
def test_an_address_is_judged_as_whoever_fetches_it_reads_it(url: str) -> None:
    with pytest.raises(ForbiddenPicture) as refused:
        check(None, asked({"type": "image_url", "image_url": {"url": url}}), PUBLIC_ONLY)
    assert refused.value.field == "messages[0].content[1].image_url"


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "image_url", "image_url": INSIDE}, "image_url"),
        ({"type": "video_url", "video_url": {"url": INSIDE}}, "video_url"),
        ({"type": "audio_url", "audio_url": {"url": INSIDE}}, "audio_url"),
        ({"type": "image", "source": {"type": "url", "url": INSIDE}}, "source"),
        ({"type": "file", "file": {"file_url": INSIDE}}, "file"),
        ({"type": "image_url", "image_url": {"url": ["x", {"url": INSIDE}]}}, "image_url"),
    ],
)
def test_an_address_is_found_in_every_part(part: dict[str, Any], field: str) -> None:
    with pytest.raises(ForbiddenPicture) as refused:
        check(None, asked(part), PUBLIC_ONLY)
    assert refused.value.field == f"messages[0].content[1].{field}"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "gs://bucket/picture.png"}},
        {"type": "image_url", "image_url": {"url": "https://example.com:8080/a.png"}},
        {"type": "file", "file": {"file_id": "file-1", "filename": INSIDE}},
        {"type": "text", "text": INSIDE},
    ],
)
def test_what_nobody_of_ours_could_fetch_is_let_through(part: dict[str, Any]) -> None:
    check(None, asked(part), PUBLIC_ONLY)
