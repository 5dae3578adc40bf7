//! Holding little: an engine has a list for each block or neighbour, thousands in all.

use std::collections::{BTreeMap, VecDeque};

/// Puts an item at the end of a list that grows by an eighth at a time, where `Vec` doubles.
pub(super) fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 8).max(2));
    }
    list.push(item);
}

/// The same for a queue.
pub(super) fn push_back<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == queue.capacity() {
        queue.reserve_exact((queue.len() / 8).max(2));
    }
    queue.push_back(item);
}

/// A tree keeps its last leaf when it is empty.
pub(super) fn free_if_empty<K, V>(tree: &mut BTreeMap<K, V>) {
    if tree.is_empty() {
        *tree = BTreeMap::new();
    }
}
