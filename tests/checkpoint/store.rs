//! An object store in memory that does, loses, tears or refuses what it is asked, as it is told to.

use std::sync::{Arc, Mutex};

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as Got,
};

/// What a store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Put,
    /// A put that must not replace anything.
    Create,
    Get,
    List,
    Delete,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// It is not done, and an error.
    Refused,
    /// An error, and a put or a deletion is done whenever [`Faulty::do_late`] is called.
    Late,
    /// It is done, and an error.
    Unheard,
    /// Of a put the first half is there, and an error. All else is done.
    Torn,
}

/// Decides on each request, by its object's name. It may wait, and it may unwind: then the request never was.
pub type Decide = dyn Fn(What, &str) -> Fate + Send + Sync;

/// What is done late.
enum Late {
    Put(Path, PutPayload, PutMode),
    Delete(Path),
}

/// One client's view of the objects in `memory`.
#[derive(Clone)]
pub struct Faulty {
    memory: Arc<InMemory>,
    decide: Arc<Decide>,
    late: Arc<Mutex<Vec<Late>>>,
}

impl Faulty {
    pub fn new(memory: &Arc<InMemory>, decide: impl Fn(What, &str) -> Fate + Send + Sync + 'static) -> Arc<Faulty> {
        Arc::new(Faulty { memory: memory.clone(), decide: Arc::new(decide), late: Arc::default() })
    }

    /// Does one of what is late, if anything is.
    pub fn do_late(&self, which: usize) {
        let mut late = self.late.lock().unwrap();
        if late.is_empty() {
            return;
        }
        let at = which % late.len();
        // Nobody hears the answer any more.
        let _unheard = match late.remove(at) {
            Late::Put(path, payload, mode) => {
                self.memory.put_opts(&path, payload, mode.into()).now_or_never().map(drop)
            }
            Late::Delete(path) => self.memory.delete(&path).now_or_never().map(drop),
        };
    }

    fn put_off(&self, late: Late) {
        self.late.lock().unwrap().push(late);
    }

    async fn delete_one(&self, location: Path) -> Got<Path> {
        let fate = (self.decide)(What::Delete, location.as_ref());
        match fate {
            Fate::Refused => {}
            Fate::Late => self.put_off(Late::Delete(location.clone())),
            _ => self.memory.delete(&location).await?,
        }
        answer(fate, location)
    }
}

fn answer<T>(fate: Fate, done: T) -> Got<T> {
    match fate {
        Fate::Done => Ok(done),
        _ => Err(Error::Generic { store: "faulty", source: format!("{fate:?}").into() }),
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Got<PutResult> {
        let what = if options.mode == PutMode::Create { What::Create } else { What::Put };
        let fate = (self.decide)(what, location.as_ref());
        let payload = match fate {
            Fate::Refused => answer(fate, payload)?,
            Fate::Late => {
                self.put_off(Late::Put(location.clone(), payload.clone(), options.mode.clone()));
                answer(fate, payload)?
            }
            Fate::Torn => {
                let bytes: Vec<u8> = payload.iter().flatten().copied().collect();
                bytes[..bytes.len() / 2].to_vec().into()
            }
            Fate::Done | Fate::Unheard => payload,
        };
        // As a server that found the object there.
        let put = self.memory.put_opts(location, payload, options).await?;
        answer(fate, put)
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Got<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Got<GetResult> {
        answer((self.decide)(What::Get, location.as_ref()), ())?;
        self.memory.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Got<Path>>) -> BoxStream<'static, Got<Path>> {
        let store = self.clone();
        let delete = move |location: Got<Path>| {
            let store = store.clone();
            async move { store.delete_one(location?).await }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Got<ObjectMeta>> {
        let fate = (self.decide)(What::List, prefix.map_or("", |prefix| prefix.as_ref()));
        match answer(fate, ()) {
            Ok(()) => self.memory.list(prefix),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Got<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Got<()> {
        self.memory.copy_opts(from, to, options).await
    }
}
