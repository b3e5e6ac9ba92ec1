//! The images of this host, by commands: taken in, looked at, passed on, removed. Results are JSON, one value a line.
//!
//! Exit status: 0 if it was done, 1 if not, 2 for wrong arguments.

#![allow(clippy::print_stderr, reason = "an example talks to the person who runs it")]

#[macro_use]
#[path = "parts/say.rs"]
mod say;

use std::path::PathBuf;
use std::process::ExitCode;

use docklet::Result;
use docklet::error::Chain;
use docklet::host::Host;
use docklet::paths::Paths;
use docklet::storage::{CollectOptions, ImageOptions, ImageSource, ImageTarget};
use serde::Serialize;

const USAGE: &str = "usage: image COMMAND
  import NAME directory|tar PATH
  import NAME oci-layout|docker-archive PATH [REFERENCE]
  list
  describe NAME
  export NAME oci-layout|oci-archive PATH
  remove NAME
  collect";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("image: {}", Chain(&error));
            say!("{}", serde_json::json!({ "error": Chain(&error).to_string() }));
            ExitCode::FAILURE
        }
    }
}

/// False if there is no such command.
async fn run(arguments: &[&str]) -> Result<bool> {
    match *arguments {
        ["import", name, format, path, ref reference @ ..] => {
            let Some(source) = source(format, path.into(), reference) else { return Ok(false) };
            let mut layer = 0;
            let image = host().await?.images().import(
                &source,
                &name.parse()?,
                &ImageOptions::default(),
                &mut |progress| {
                    if layer < progress.layer {
                        layer = progress.layer;
                        eprintln!("layer {layer} of {}", progress.layers);
                    }
                },
            )?;
            print(&image);
        }
        ["list"] => print(&host().await?.images().list()?),
        ["describe", name] => print(&host().await?.images().describe(&name.parse()?)?),
        ["export", name, format, path] => {
            let target = match format {
                "oci-layout" => ImageTarget::OciLayout(path.into()),
                "oci-archive" => ImageTarget::OciArchive(path.into()),
                _ => return Ok(false),
            };
            host().await?.images().export(&name.parse()?, &target)?;
        }
        // Not the store's own: the host knows which images its containers were made from.
        ["remove", name] => host().await?.remove_image(&name.parse()?).await?,
        ["collect"] => print(&host().await?.collect_garbage(&CollectOptions::default()).await?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn source(format: &str, path: PathBuf, reference: &[&str]) -> Option<ImageSource> {
    let named = reference.first().map(|&reference| reference.to_owned());
    match (format, reference) {
        ("directory", []) => Some(ImageSource::Directory(path)),
        ("tar", []) => Some(ImageSource::Tar(path)),
        ("oci-layout", [] | [_]) => Some(ImageSource::OciLayout { path, reference: named }),
        ("docker-archive", [] | [_]) => Some(ImageSource::DockerArchive { path, reference: named }),
        _ => None,
    }
}

async fn host() -> Result<Host> {
    Host::open(Paths::from_env()?).await
}

fn print(value: &impl Serialize) {
    say!("{}", serde_json::to_string(value).expect("plain data"));
}
