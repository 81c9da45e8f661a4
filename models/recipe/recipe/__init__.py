"""How impetus-tiny-chat and impetus-tiny-embed are made; see ../README.md."""
