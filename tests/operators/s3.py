"""Object storage for tests."""

import uuid


def s3_environment(monkeypatch, endpoint):
    """Point s3fs at a server; return the root of a fresh bucket."""
    import fsspec

    values = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "hub",
        "AWS_SECRET_ACCESS_KEY": "hubsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
        # Servers other than Amazon's refuse the checksums that new clients send unasked.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    bucket = f"hub-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3", endpoint_url=endpoint).mkdir(bucket)
    return f"s3://{bucket}/root"
