//! Opens the storage that a configuration asks for: a folder of this machine, or a bucket that speaks S3.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};

use super::storage::Storage;
use crate::config::{Bucket, Config};

/// A connection that isn't there after so long is none.
const CONNECT: &str = "5 seconds";
/// How long a request may take, its body included: segments have some 20 MiB.
const REQUEST: &str = "60 seconds";
/// A server that is busy or breaks off gets so many further chances; whoever waits for an object tries again by himself.
const RETRIES: usize = 3;
/// After this long no further attempt begins.
const RETRY: Duration = Duration::from_secs(10);
/// The longest pause between two.
const PAUSE: Duration = Duration::from_secs(2);

/// How a variable of the client's says yes.
const YES: [&str; 5] = ["true", "1", "yes", "y", "on"];

/// Where this configuration keeps checkpoints. A bucket's keys, region and endpoint come from the AWS_ variables of the
/// environment. A folder is made; a bucket isn't asked yet.
///
/// # Errors
/// What is wrong with the setting or with a variable, or why the folder can't be made.
pub fn open(config: &Config) -> Result<Storage, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    open_with(config, std::env::vars_os().filter_map(text))
}

/// As [`open`], with these variables instead of the environment's.
///
/// # Errors
/// As [`open`].
pub fn open_with(config: &Config, environment: impl IntoIterator<Item = (String, String)>) -> Result<Storage, String> {
    match config.checkpoint.bucket()? {
        None => Storage::folder(&config.checkpoint_folder()),
        Some(bucket) => s3(&bucket, environment),
    }
}

fn s3(bucket: &Bucket, environment: impl IntoIterator<Item = (String, String)>) -> Result<Storage, String> {
    let settings = environment.into_iter().filter_map(|(name, value)| {
        let key: AmazonS3ConfigKey = name.starts_with("AWS_").then(|| name.to_ascii_lowercase().parse().ok())??;
        Some((key, value))
    });
    let client = |key| AmazonS3ConfigKey::Client(key);
    let backoff = BackoffConfig { max_backoff: PAUSE, ..BackoffConfig::default() };
    let builder = settings
        .fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(key, value))
        .with_bucket_name(&bucket.name)
        // Of two runs that make the same manifest one must fail, whatever the environment says.
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_config(client(ClientConfigKey::ConnectTimeout), CONNECT)
        .with_config(client(ClientConfigKey::Timeout), REQUEST)
        .with_retry(RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY });
    let told = |key| builder.get_config_value(&key);
    let endpoint = told(AmazonS3ConfigKey::S3Endpoint).or_else(|| told(AmazonS3ConfigKey::Endpoint));
    let is_plain = endpoint.is_some_and(|e| e.starts_with("http://"));
    let may_be_plain =
        told(client(ClientConfigKey::AllowHttp)).is_some_and(|v| YES.contains(&&*v.to_ascii_lowercase()));
    if is_plain && !may_be_plain {
        return Err(format!(
            "[checkpoint] url = \"{bucket}\": AWS_ENDPOINT begins with \"http://\", which nothing encrypts: take \"https://\", or set AWS_ALLOW_HTTP=true in the environment"
        ));
    }
    let failed = |e: object_store::Error| {
        format!("[checkpoint] url = \"{bucket}\": {e}; see the AWS_ variables of the environment")
    };
    let store = PrefixStore::new(builder.build().map_err(failed)?, bucket.prefix.as_str());
    Storage::object_store(Arc::new(store), &bucket.to_string())
}
