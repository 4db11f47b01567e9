//! Where checkpoints are: can the engine write, read, list and delete there, does a second creation fail, and is there room.

use super::files::{WRITE_THERE, disk, writable};
use super::finding::Finding;
use crate::checkpoint::{self, Tried};
use crate::config::{Bucket, Config};

const PART: &str = "checkpoints";

/// The checkpoint storage of the configuration.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    match config.checkpoint.bucket() {
        Ok(None) => folder(config).await,
        Ok(Some(bucket)) => vec![tried(config, &format!("\"{bucket}\""), &of_bucket(&bucket)).await],
        Err(error) => vec![Finding::error(PART, error, "")],
    }
}

fn of_bucket(bucket: &Bucket) -> String {
    format!(
        "correct [checkpoint] url, or in the environment AWS_ENDPOINT, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; the engine must be allowed to read, write, list and delete in \"{bucket}\""
    )
}

async fn folder(config: &Config) -> Vec<Finding> {
    let folder = config.checkpoint_folder();
    let place = match writable(&folder) {
        Ok(place) => place,
        Err(error) => return vec![Finding::error(PART, error, WRITE_THERE)],
    };
    let first = match folder.exists() {
        true => tried(config, &format!("\"{}\"", folder.display()), WRITE_THERE).await,
        // Nothing is made.
        false => Finding::ok(PART, place),
    };
    let room = "make room: without it alerts wait and reading pauses; a checkpoint grows with what groups remember, and two are kept";
    [first].into_iter().chain(disk(PART, &folder, room)).collect()
}

async fn tried(config: &Config, place: &str, way_out: &str) -> Finding {
    let config = config.clone();
    let outcome = tokio::task::spawn_blocking(move || Ok(checkpoint::try_out(&checkpoint::open(&config)?)));
    match outcome.await.unwrap_or_else(|e| Err(format!("it wasn't tried to the end: {e}"))) {
        Ok(Tried::Well) => Finding::ok(PART, format!("{place} takes, gives and deletes, and creates nothing twice")),
        Ok(Tried::CreatesTwice) => Finding::error(
            PART,
            format!("{place} creates twice: of two clusters that write there neither would notice the other"),
            "take a server that honours \"If-None-Match: *\" when an object is put, as Amazon S3 and late versions of others do; or a folder",
        ),
        Ok(Tried::Wrong(what)) => Finding::error(PART, format!("{place}: {what}"), way_out),
        Ok(Tried::Failed(error)) => Finding::error(PART, error.to_string(), way_out),
        Err(error) => Finding::error(PART, error, way_out),
    }
}
