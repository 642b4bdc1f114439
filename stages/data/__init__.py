"""Data: shards written, shards read, which samples make up a step, augmentation."""
