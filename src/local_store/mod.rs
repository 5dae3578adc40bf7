//! The LocalStore: packs, their index, datasets and pins.
