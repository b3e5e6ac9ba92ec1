//! What is refused leaves nothing: no mount, no descriptor, nothing unfinished. And many processes over one store.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use docklet::Error;
use docklet::idmap::IdMap;
use docklet::storage::{ImageOptions, ImageSource, ImageStore, ImageTarget, OverlayRoot};

use crate::image::{AT_ONCE, contents, name, store};
use crate::kernel;
use crate::sandbox::{Sandbox, alone, open_descriptors};
use crate::tar_archive::TarArchive;
use crate::volume::{MIB, pool, spec};

/// Each is refused, and by the kernel's word nothing is left of it.
fn refuse(sandbox: &Sandbox, cases: &[(&str, &dyn Fn() -> docklet::Result<()>)]) {
    let state = || (open_descriptors(), kernel::mounts_beneath(sandbox.paths.prefix()));
    let before = state();
    for (case, attempt) in cases {
        let error = attempt().expect_err(case);
        assert!(!matches!(error, Error::LeftBehind { .. }), "{case}: {error}");
        assert_eq!(state(), before, "{case}: {error}");
    }
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn overlays_that_are_refused_leave_nothing() {
    // A child process of another test has for a moment all that this one has open.
    if !alone("storage_errors::overlays_that_are_refused_leave_nothing") {
        return;
    }
    let sandbox = Sandbox::new();
    let (layers, run) = (sandbox.dir("layers"), sandbox.dir("run"));
    let [one, two] = ["one", "two"].map(|name| {
        fs::create_dir_all(layers.join(name).join("inner")).expect("mkdir");
        layers.join(name)
    });
    fs::write(layers.join("file"), "x").expect("write");
    symlink(&one, layers.join("link")).expect("symlink");
    std::os::unix::fs::chown(&two, Some(70_000), Some(70_000)).expect("chown");
    let volume = pool(&sandbox).ensure(&spec("space", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let target = run.join("root");
    let over = |layers: &[&Path], target: &Path| OverlayRoot::over(layers).on(&space).mount(target).map(drop);
    let map = IdMap::new([(0, 100_000, 65_536)]).expect("a map");
    let many: Vec<PathBuf> = (0..501).map(|n| layers.join(format!("many/{n}"))).collect();
    let on_volume = space.path().join("root");
    let upper = space.path().join("upper");
    refuse(
        &sandbox,
        &[
            ("no layer", &|| over(&[], &target)),
            ("relative layer", &|| over(&[Path::new("layers")], &target)),
            ("missing layer", &|| over(&[&layers.join("none")], &target)),
            ("a file as layer", &|| over(&[&layers.join("file")], &target)),
            ("one layer twice", &|| over(&[&one, &one], &target)),
            ("one layer by two names", &|| over(&[&one, &layers.join("link")], &target)),
            ("a layer in a layer", &|| over(&[&one, &one.join("inner")], &target)),
            ("too many layers", &|| OverlayRoot::over(&many).on(&space).mount(&target).map(drop)),
            ("the volume in a layer", &|| over(&[sandbox.paths.prefix()], &target)),
            ("relative target", &|| over(&[&one], Path::new("root"))),
            ("target without a parent", &|| over(&[&one], &run.join("none/root"))),
            ("a file as target", &|| over(&[&one], &layers.join("file"))),
            ("a link as target", &|| over(&[&one], &layers.join("link"))),
            ("target on the volume", &|| over(&[&one], &on_volume)),
            ("owner without a place in the map", &|| {
                OverlayRoot::over(&[&two]).on(&space).id_map(&map).mount(&target).map(drop)
            }),
            ("a file in the place of the upper directory", &|| {
                fs::write(&upper, "x").expect("write");
                let refused = over(&[&one], &target);
                fs::remove_file(&upper).expect("unlink");
                refused
            }),
        ],
    );
    volume.unmount().expect("unmount");
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn images_that_are_refused_leave_nothing() {
    if !alone("storage_errors::images_that_are_refused_leave_nothing") {
        return;
    }
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let sources = sandbox.dir("sources");
    let at = |name: &str| sources.join(name);
    let import_to = |source: ImageSource, image: &str| {
        let options = ImageOptions::default();
        store.import(&source, &name(image), &options, &mut |_| {}).map(drop)
    };
    let import = |source: ImageSource| import_to(source, "refused");
    let good = TarArchive::default().file("file", "x").end();
    fs::write(at("good.tar"), &good).expect("write");
    import_to(ImageSource::Tar(at("good.tar")), "taken").expect("import");
    let tar = |archive: TarArchive| {
        fs::write(at("bad.tar"), archive.end()).expect("write");
        import(ImageSource::Tar(at("bad.tar")))
    };
    let layout = |path: PathBuf| ImageSource::OciLayout { path, reference: None };
    let docker = |path: PathBuf| ImageSource::DockerArchive { path, reference: None };
    store.export(&name("taken"), &ImageTarget::OciLayout(at("layout"))).expect("export");
    let damage = |file: &Path| {
        let good = fs::read(file).expect("read");
        fs::write(file, &good[..good.len() / 2]).expect("write");
        let refused = import(layout(at("layout")));
        fs::write(file, good).expect("write");
        refused
    };
    let before = contents(&sandbox);
    refuse(
        &sandbox,
        &[
            ("a name that is taken", &|| import_to(ImageSource::Directory(sources.clone()), "taken")),
            ("relative path", &|| import(ImageSource::Tar("good.tar".into()))),
            ("nothing there", &|| import(ImageSource::Tar(at("none")))),
            ("a directory as archive", &|| import(ImageSource::Tar(sources.clone()))),
            ("an archive as directory", &|| import(ImageSource::Directory(at("good.tar")))),
            ("no layout", &|| import(layout(sources.clone()))),
            ("no layout in an archive", &|| import(layout(at("good.tar")))),
            ("nothing that docker saved", &|| import(docker(at("good.tar")))),
            ("a path that climbs", &|| tar(TarArchive::default().file("ok", "x").file("../up", "x"))),
            ("a link to nothing", &|| tar(TarArchive::default().file("ok", "x").hard_link("a", "b"))),
            ("a file through a link", &|| tar(TarArchive::default().symlink("a", "/etc").file("a/b", "x"))),
            ("a whiteout of nothing", &|| tar(TarArchive::default().file("ok", "x").file(".wh...", ""))),
            ("cut off", &|| {
                fs::write(at("bad.tar"), &good[..good.len() - 1030]).expect("write");
                import(ImageSource::Tar(at("bad.tar")))
            }),
            ("cut index", &|| damage(&at("layout/index.json"))),
            ("cut blobs", &|| {
                let blobs = fs::read_dir(at("layout/blobs/sha256")).expect("list");
                let blobs: Vec<PathBuf> = blobs.map(|entry| entry.expect("entry").path()).collect();
                let errors: Vec<Error> =
                    blobs.iter().map(|blob| damage(blob).expect_err("a cut blob")).collect();
                Err(errors.into_iter().next_back().expect("three blobs"))
            }),
            ("a container's layer that cannot be described", &|| {
                let upper = sandbox.dir("upper");
                fs::write(upper.join(".wh.x"), "").expect("write");
                let base = store.resolve(&name("taken"))?;
                store.commit(&base, &upper, &name("refused"), &ImageOptions::default(), None).map(drop)
            }),
            ("a build that fails", &|| {
                let fill = |root: &mut docklet::storage::ImageBuilder| {
                    root.write_file("/file", "x", 0o644)?;
                    root.copy_file("/file2", "/none", 0o644)
                };
                store.build(&name("refused"), fill).map(drop)
            }),
        ],
    );
    store.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!(contents(&sandbox), before, "no blob, no layer, nothing unfinished");
    assert_eq!(store.list().expect("list"), [name("taken")]);
}

/// Set in the processes of the storm: where the store is, and which of them it is.
const STORM: &str = "DOCKLET_TEST_STORM";
const PROCESSES: usize = 4;
const TURNS: usize = 40;

/// Four processes import, remove, collect and open over one store: no operation finds half of something, what is named in the end
/// is whole, and nothing is left.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_storm_of_processes() {
    if let Ok(text) = env::var(STORM) {
        let (number, base) = text.split_once(':').expect("two parts");
        return storm(number.parse().expect("a number"), Path::new(base));
    }
    let sandbox = Sandbox::new();
    let base = sandbox.dir("storm");
    for n in 0..3 {
        let archive = TarArchive::default().file("same", "same").file(&format!("dir/{n}"), "x");
        fs::write(base.join(format!("{n}.tar")), archive.end()).expect("write");
    }
    let processes: Vec<_> = (0..PROCESSES)
        .map(|number| {
            Command::new(env::current_exe().expect("own path"))
                .args(["--exact", "storage_errors::image_storm_of_processes", "--include-ignored", "--quiet"])
                .env(STORM, format!("{number}:{}", base.display()))
                .spawn()
                .expect("the same program")
        })
        .collect();
    for mut process in processes {
        let status = process.wait().expect("wait");
        assert!(status.success(), "{status}");
    }
    let store = stored(&base);
    let verified = store.verify().expect("verify");
    assert_eq!(verified.damaged, Vec::<String>::new());
    assert!(verified.layers > 0, "{verified:?}");
    for image in store.list().expect("list") {
        let layers = store.open(&image).expect("open").layers;
        assert_eq!(fs::read_to_string(layers[0].join("same")).expect("read"), "same", "{image}");
        store.remove(&image).expect("remove");
    }
    store.collect_garbage(&[], &AT_ONCE).expect("collect");
    for dir in ["global/staging", "global/condemned", "global/blobs/sha256", "global/tags"] {
        assert_eq!(fs::read_dir(base.join(dir)).expect("list").count(), 0, "{dir}");
    }
    let local = fs::read_dir(base.join("local")).expect("list");
    let local: Vec<_> = local.map(|entry| entry.expect("entry").file_name()).collect();
    assert!(local.iter().all(|name| name == ".names.lock" || name == ".collect.lock"), "{local:?}");
}

fn stored(base: &Path) -> ImageStore {
    ImageStore::new(base.join("global"), base.join("local")).expect("store")
}

fn storm(number: usize, base: &Path) {
    let store = stored(base);
    let replace = ImageOptions { replace: true, ..ImageOptions::default() };
    let descriptors = open_descriptors();
    for turn in 0..TURNS {
        let n = (number * 7 + turn) % 3;
        let image = name(&format!("n{n}"));
        let (what, result) = match (number + turn) % 5 {
            0 | 1 => {
                let source = ImageSource::Tar(base.join(format!("{n}.tar")));
                ("import", store.import(&source, &image, &replace, &mut |_| {}).map(drop))
            }
            2 => ("remove", store.remove(&image)),
            3 => ("collect", store.collect_garbage(&[], &AT_ONCE).map(drop)),
            _ => ("open", store.open(&image).map(drop)),
        };
        match result {
            // Others take names away, and collect what nothing names.
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => panic!("{number}: {what} {image}: {}", docklet::error::Chain(&error)),
        }
    }
    assert_eq!(open_descriptors(), descriptors);
}
