"""The outside world: images in and out, photos, videos and cameras, threads that read and write."""
