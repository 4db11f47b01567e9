//! Tries a storage out: everything that checkpoints ask of one, with an object of its own that is gone afterwards.

use super::storage::{Sealed, Storage, StorageError};

/// What came of it.
#[derive(Debug)]
pub enum Tried {
    /// It does what checkpoints need.
    Well,
    /// A second creation of the same object wasn't refused: two clusters wouldn't notice each other.
    CreatesTwice,
    /// What was read isn't what was written, or what was deleted is still there: which, with the object's name.
    Wrong(String),
    /// It can't be reached, or refuses something.
    Failed(StorageError),
}

/// Creates, reads, lists and deletes an object.
pub fn try_out(storage: &Storage) -> Tried {
    let name = format!("probe-{:016x}", rand::random::<u64>());
    let tried = create_and_read(storage, &name);
    storage.delete([name.clone()]);
    match (tried, storage.size(&name)) {
        (Ok(Tried::Well), Ok(Some(_))) => Tried::Wrong(format!("\"{name}\" can't be deleted")),
        (Ok(tried), Ok(_)) => tried,
        (Err(error), _) | (_, Err(error)) => Tried::Failed(error),
    }
}

fn create_and_read(storage: &Storage, name: &str) -> Result<Tried, StorageError> {
    let (first, second) = (b"first".to_vec(), b"second".to_vec());
    if !storage.create(name, &Sealed::new(first.clone()))? {
        return Ok(Tried::Wrong(format!("\"{name}\" is there before anybody created it")));
    }
    if storage.create(name, &Sealed::new(second))? {
        return Ok(Tried::CreatesTwice);
    }
    if storage.get(name)? != first {
        return Ok(Tried::Wrong(format!("\"{name}\" was read otherwise than it was written")));
    }
    storage.list("manifests")?;
    Ok(Tried::Well)
}
