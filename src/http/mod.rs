//! What tiny_http answers.
