//! What threads share: locks, and things that are kept for the next who asks.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks what a thread that panicked may have held: each change of what is behind these locks is whole.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last things of a kind that were asked for; begun anew when there are too many.
#[derive(Debug)]
pub(super) struct Kept<K, V> {
    limit: usize,
    all: Mutex<HashMap<K, V>>,
}

impl<K: Eq + Hash, V: Clone> Kept<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, all: Mutex::default() }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        locked(&self.all).get(key).cloned()
    }

    pub(super) fn keep(&self, key: K, value: V) {
        let mut all = locked(&self.all);
        if all.len() >= self.limit {
            all.clear();
        }
        all.insert(key, value);
    }
}
