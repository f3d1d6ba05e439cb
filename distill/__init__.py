"""FuseDistill's core: fusion of frozen upstreams, layerwise distillation, fair evaluation."""

SAMPLE_RATE = 16_000  # samples per second; the only audio rate there is. Here, as speaking a corpus needs no torch
