"""FuseDistill's core: fusion of frozen upstreams, layerwise distillation, fair evaluation."""
