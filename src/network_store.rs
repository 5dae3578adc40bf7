//! LocalStore first, then the Engine.
