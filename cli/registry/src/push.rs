//! A push: the blobs that the registry does not have, and then the manifest under its name.

use std::fs::File;

use vctx_storage::image::remote::Job;
use vctx_storage::image::spec::{Descriptor, MANIFEST, Manifest};
use vctx_storage::image::{Digest, Store};

use crate::client::Client;
use crate::error::Error;
use crate::progress::Progress;

/// Pushes, and gives the name in the registry with its digest.
pub(crate) fn run(job: &Job) -> Result<String, Error> {
    let store = Store::new(&job.store);
    let image = store.find(&job.image)?;
    // What is being read may not be collected.
    let mut pin = store.pin()?;
    let details = store.details(&image.manifest)?;
    pin.add(details.digests().chain([&image.manifest]))?;
    let client = Client::new(job, "pull,push")?;
    let progress = Progress::new(job.quiet);
    for blob in details.manifest.layers.iter().chain([&details.manifest.config]) {
        upload(&client, &store, blob, &progress)?;
    }
    progress.end();
    let bytes = store.small(&image.manifest)?;
    let kind =
        serde_json::from_slice::<Manifest>(&bytes).map(|manifest| manifest.media_type).unwrap_or_default();
    let kind = if kind.is_empty() { MANIFEST } else { &kind };
    let version = client.reference.version();
    let url = client.address(&format!("manifests/{version}"));
    client.send(&version, "PUT", &url, &[("content-type", kind)], || Ok(&*bytes))?;
    Ok(format!("{}@{}", client.reference.familiar(), image.manifest))
}

fn upload(client: &Client, store: &Store, blob: &Descriptor, progress: &Progress) -> Result<(), Error> {
    let what = blob.digest.to_string();
    let there =
        client.send(&what, "HEAD", &client.address(&format!("blobs/{}", blob.digest)), &[], || Ok(()));
    match there {
        Ok(_) => {
            progress.done(&blob.digest, blob.size, "there already");
            return Ok(());
        }
        Err(Error::Absent(_)) => {}
        Err(error) => return Err(error),
    }
    progress.begin(&blob.digest, blob.size);
    let begun = client.send(&what, "POST", &client.address("blobs/uploads/"), &[], || Ok(()))?;
    let location = begun.headers().get("location").and_then(|place| place.to_str().ok());
    let location =
        location.ok_or(Error::Answer { what: what.clone(), reason: "it names no place for a blob" })?;
    let url = complete(&client.absolute(location), &blob.digest);
    let path = store.blob(&blob.digest);
    let open = || File::open(&path).map_err(|source| Error::Read { path: path.clone(), source });
    client.send(&what, "PUT", &url, &[("content-type", "application/octet-stream")], open)?;
    progress.done(&blob.digest, blob.size, "pushed");
    Ok(())
}

/// The address that ends an upload.
fn complete(location: &str, digest: &Digest) -> String {
    let joint = if location.contains('?') { '&' } else { '?' };
    format!("{location}{joint}digest=sha256%3A{}", digest.hex())
}
