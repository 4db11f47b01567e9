//! An object store in memory that does what it is asked when it is told to, and may lose the answer.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
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
    /// It is done, and an error.
    Unheard,
}

/// Decides on each request, by its object's name. It may wait, and it may unwind: then the request never was.
pub type Decide = dyn Fn(What, &str) -> Fate + Send + Sync;

/// One client's view of the objects in `memory`.
#[derive(Clone)]
pub struct Faulty {
    memory: Arc<InMemory>,
    decide: Arc<Decide>,
}

impl Faulty {
    pub fn new(memory: &Arc<InMemory>, decide: impl Fn(What, &str) -> Fate + Send + Sync + 'static) -> Arc<Faulty> {
        Arc::new(Faulty { memory: memory.clone(), decide: Arc::new(decide) })
    }

    async fn delete_one(&self, location: Path) -> Got<Path> {
        let fate = (self.decide)(What::Delete, location.as_ref());
        self.memory.delete(&location).await?;
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
