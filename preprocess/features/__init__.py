"""Features of frozen backbones: computed once for prepared clips."""
