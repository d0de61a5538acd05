"""Where the rivals keep what they were told: a row for each answer, as a user would store it."""

from __future__ import annotations

import os
from collections import Counter

import httpx
import psycopg

TABLE = "CREATE TABLE rival_answer (n bigserial PRIMARY KEY, prompt text, answer text, at timestamptz DEFAULT now())"


def ask_and_store(prompt: str) -> None:
    """What the task of each rival does: one call, one row."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    reply = httpx.post(os.environ["RIVAL_PROVIDER_URL"], json=body, timeout=60, trust_env=False)
    reply.raise_for_status()
    text = reply.json()["choices"][0]["message"]["content"]
    with psycopg.connect(os.environ["RIVAL_DATABASE_URL"]) as conn:
        conn.execute("INSERT INTO rival_answer (prompt, answer) VALUES (%s, %s)", (prompt, text))


def stored(url: str) -> Counter[str]:
    """Prompt -> how many answers are stored for it."""
    with psycopg.connect(url) as conn:
        return Counter(row[0] for row in conn.execute("SELECT prompt FROM rival_answer"))
