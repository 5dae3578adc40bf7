//! Holding little: an engine has a list for each block or neighbour, thousands in all.

use std::collections::BTreeMap;

/// Puts an item at the end of a list that grows by an eighth at a time, where `Vec` doubles.
pub(super) fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 8).max(2));
    }
    list.push(item);
}

/// A tree keeps its last leaf when it is empty.
pub(super) fn free_if_empty<K, V>(tree: &mut BTreeMap<K, V>) {
    if tree.is_empty() {
        *tree = BTreeMap::new();
    }
}
