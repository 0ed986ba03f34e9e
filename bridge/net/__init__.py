"""The guarded way out: HTTP, DNS and the judgement of addresses."""
