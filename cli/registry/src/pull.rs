//! A pull: the manifest by its name, and the blobs by their digests, several at a time.

use std::sync::Mutex;
use std::thread;

use vctx_storage::image::acquire::{Event, Origin, resolve, take_in};
use vctx_storage::image::remote::{Download, Job};
use vctx_storage::image::spec::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, INDEX, LARGEST, MANIFEST};
use vctx_storage::image::{self, Digest, Store};

use crate::client::{ATTEMPTS, Client, backoff};
use crate::error::Error;
use crate::progress::Progress;

/// Pulls, and gives the image's name.
pub(crate) fn run(job: &Job) -> Result<String, Error> {
    let client = Client::new(job, "pull")?;
    let store = Store::new(&job.store);
    let remote = Remote { progress: Progress::new(job.quiet), first: Mutex::new(None), client };
    let descriptor = remote.named()?;
    let pin = store.pin()?;
    let found = resolve(&remote, &descriptor, &job.platform)?;
    let reference = &remote.client.reference;
    let image = take_in(&store, pin, &remote, &found, &reference.to_string(), &job.unpack());
    remote.progress.end();
    image?;
    Ok(reference.familiar())
}

/// An image in a registry.
struct Remote {
    client: Client,
    progress: Progress,
    /// What the name stands for, which has been read already.
    first: Mutex<Option<(Digest, Vec<u8>)>>,
}

impl Remote {
    /// What the name stands for.
    fn named(&self) -> Result<Descriptor, Error> {
        let version = self.client.reference.version();
        let (kind, bytes) = self.read(&version)?;
        let digest = Digest::of(&bytes);
        if let Some(wanted) = self.client.reference.digest.clone().filter(|wanted| *wanted != digest) {
            return Err(image::Error::Digest { expected: wanted, found: digest }.into());
        }
        let descriptor = Descriptor::new(&kind, digest.clone(), bytes.len() as u64);
        *self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((digest, bytes));
        Ok(descriptor)
    }

    /// A manifest or a list, and its media type.
    fn read(&self, version: &str) -> Result<(String, Vec<u8>), Error> {
        let accept = [INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let what = format!("{}:{version}", self.client.reference.name());
        let url = self.client.address(&format!("manifests/{version}"));
        let answer = self.client.get(&what, &url, &[("accept", &accept)])?;
        let kind =
            answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_owned();
        let host = self.client.reference.registry.clone();
        let bytes = answer.into_body().into_with_config().limit(LARGEST).read_to_vec();
        Ok((kind, bytes.map_err(|source| Error::Reach { host, source: Box::new(source) })?))
    }

    /// Reads on from where the download is.
    fn go_on(&self, blob: &Descriptor, download: &mut Download) -> Result<(), Error> {
        let url = self.client.address(&format!("blobs/{}", blob.digest));
        let range = format!("bytes={}-", download.have);
        let headers: &[(&str, &str)] = if download.have > 0 { &[("range", &range)] } else { &[] };
        let answer = self.client.get(&blob.digest.to_string(), &url, headers)?;
        // A server that knows no ranges begins anew.
        if download.have > 0 && answer.status() != 206 {
            download.restart()?;
        }
        let body = answer.into_body().into_with_config().limit(u64::MAX).reader();
        download.append(body, |have| self.progress.have(&blob.digest, have))?;
        Ok(())
    }

    fn download(&self, store: &Store, blob: &Descriptor) -> Result<(), Error> {
        let Some(mut download) = store.download(&blob.digest, blob.size)? else { return Ok(()) };
        self.progress.begin(&blob.digest, blob.size);
        let mut times = 0;
        while !download.is_complete() {
            let before = download.have;
            let result = self.go_on(blob, &mut download);
            // What has come counts: only a connection that brings nothing is one more failure.
            times = if download.have > before { 0 } else { times + 1 };
            match result {
                Ok(()) if download.is_complete() => break,
                Err(error @ Error::Image(image::Error::Size { .. } | image::Error::File { .. })) => {
                    return Err(error);
                }
                Ok(()) if times >= ATTEMPTS => {
                    let (what, expected, found) = (blob.digest.to_string(), blob.size, download.have);
                    download.pause();
                    return Err(image::Error::Size { what, expected, found }.into());
                }
                Err(error @ (Error::Image(_) | Error::Reach { .. })) if times >= ATTEMPTS => {
                    let what = blob.digest.to_string();
                    download.pause();
                    return Err(Error::Broken { what, times, source: Box::new(error) });
                }
                // What the registry refuses has been tried often enough.
                Err(error) if !matches!(error, Error::Image(_) | Error::Reach { .. }) => {
                    download.pause();
                    return Err(error);
                }
                _ => thread::sleep(backoff(times)),
            }
        }
        Ok(download.finish()?)
    }
}

impl Origin for Remote {
    fn manifest(&self, of: &Descriptor) -> Result<Vec<u8>, image::Error> {
        let first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match first {
            Some((digest, bytes)) if digest == of.digest => Ok(bytes),
            _ => Ok(self.read(&of.digest.to_string())?.1),
        }
    }

    fn fetch(&self, store: &Store, blob: &Descriptor) -> Result<(), image::Error> {
        Ok(self.download(store, blob)?)
    }

    fn tell(&self, event: Event<'_>) {
        match event {
            Event::Present(layer) => self.progress.done(&layer.digest, layer.size, "there already"),
            Event::Unpacking(layer) => self.progress.says(&layer.digest, "unpacking"),
            Event::Unpacked(layer) => self.progress.done(&layer.digest, layer.size, "ready"),
        }
    }
}
