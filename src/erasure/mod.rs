//! Reed-Solomon: field kernels, codec, protected manifest.
