"""Images from and to registries: OCI distribution-spec 1.1, Docker registry v2."""
