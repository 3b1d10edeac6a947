"""Counters and gauges that Prometheus reads at /metrics. They hold no text of questions or answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from pllava.apps.serve.jobs import JobQueue
    from pllava.chat.prefix_cache import PrefixCache

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("pllava_requests", "Requests by path and status", ["path", "status"], registry=self.registry)
        self.seconds = Histogram("pllava_completion_seconds", "Whole chat completions", buckets=SECONDS, registry=self.registry)
        self.first_token = Histogram("pllava_first_token_seconds", "Until the first text", buckets=SECONDS, registry=self.registry)
        self.tokens = Counter("pllava_tokens", "Tokens by kind", ["kind"], registry=self.registry)
        self.abandoned = Counter("pllava_abandoned", "Completions given up, by reason", ["reason"], registry=self.registry)

    def watch(self, jobs: JobQueue, cache: PrefixCache) -> None:
        """Add gauges of the queue and the cache. A gauge reads its value when Prometheus asks."""
        gauges = {
            "pllava_requests_running": ("Requests being answered", lambda: jobs.running),
            "pllava_requests_waiting": ("Requests in the queue", lambda: jobs.waiting),
            "pllava_video_cache_hits": ("Videos found encoded", lambda: cache.stats().hits),
            "pllava_video_cache_misses": ("Videos encoded anew", lambda: cache.stats().misses),
            "pllava_video_cache_bytes": ("Size of the encoded videos", lambda: cache.stats().bytes),
            "pllava_video_cache_entries": ("Encoded videos", lambda: cache.stats().entries),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)
