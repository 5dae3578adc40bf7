//! DAG-CBOR, read and written strictly.
