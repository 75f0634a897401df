"""What tests share: an endpoint, buckets, mounts, witnesses, a proxy that counts and fails."""
