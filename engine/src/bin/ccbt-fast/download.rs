//! `ccbt-fast download`.

use std::fs;
use std::path::PathBuf;

use ccbt_fast::Magnet;

use crate::args::DownloadArgs;
use crate::failure::Failure;
use crate::transfer::{self, Configuration, Kind, Plan, Stage};
use crate::{magnet, resume};

/// Downloads until everything is verified and on disk, and seeds as long as was asked for.
pub fn run(args: &DownloadArgs) -> Result<(), Failure> {
    run_in(args, None)
}

/// As [`run`], with the files in `output` if that is given.
pub fn run_in(args: &DownloadArgs, output: Option<PathBuf>) -> Result<(), Failure> {
    run_as(args, output, |plan| Ok(Kind::Download { move_completed: plan.effect.move_completed.clone() }))
}

/// As [`run_in`], for what `kind` makes of the plan.
pub fn run_as(
    args: &DownloadArgs,
    output: Option<PathBuf>,
    kind: impl FnOnce(&mut Plan) -> Result<Kind, Failure>,
) -> Result<(), Failure> {
    let (stage, mut plan, link) = match magnet::given(&args.transfer.torrent)? {
        None => (None, Plan::new(&args.transfer, args.settings.given())?, None),
        Some(link) => find(args, link)?,
    };
    let named = output.is_some() || args.names_output();
    if let Some(output) = output {
        plan.effect.torrent.output = output;
    }
    let options = &mut plan.effect.torrent;
    match &link {
        Some(link) => options.magnet = Some(link.to_string()),
        None => options.source = Some(args.transfer.torrent.clone()),
    }
    let own = args.files.priorities(&plan.metainfo)?;
    let linked = || link.as_ref()?.priorities(&plan.metainfo);
    let configured = || plan.effect.files.priorities_if_fitting(&plan.metainfo);
    let file_priorities = own.or_else(linked).or_else(configured);
    plan.effect.torrent.file_priorities = file_priorities;
    let kind = kind(&mut plan)?;
    let found = resume::find(args, &plan, named)?;
    plan.notes = found.notes;
    let options = &mut plan.effect.torrent;
    if let Some(checkpoint) = found.checkpoint {
        if !named && args.checkpoint.resume {
            options.output.clone_from(&checkpoint.output);
        }
        if options.renames.is_empty() {
            options.renames = resume::renames_of(&checkpoint);
        }
        options.resume = Some(checkpoint);
    }
    // It was decided just now.
    options.auto_resume = false;
    let output = &options.output;
    // Only now: a torrent that is refused leaves nothing behind.
    fs::create_dir_all(output).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::folder(output, "it is not a folder"),
        _ => Failure::folder(output, &format!("cannot be created: {error}")),
    })?;
    match stage {
        Some(stage) => transfer::run_on(stage, kind, &args.transfer, plan),
        None => transfer::run(kind, &args.transfer, plan),
    }
}

/// The torrent of a magnet link: kept from an earlier run, or found by an engine that then runs already.
fn find(args: &DownloadArgs, link: Magnet) -> Result<(Option<Stage>, Plan, Option<Magnet>), Failure> {
    let configuration = Configuration::read(&args.transfer, args.settings.given())?;
    let effect = configuration.effect(&link.info_hash, link.name.as_deref().unwrap_or_default());
    let (stage, metainfo) = match magnet::kept(&link, effect.settings.checkpoints.dir.as_deref()) {
        Some(metainfo) => (None, metainfo),
        None => {
            let (stage, metainfo) = magnet::fetch(&link, args, &configuration)?;
            (Some(stage), metainfo)
        }
    };
    let mut plan = Plan::of(metainfo, &args.transfer, configuration);
    if stage.is_none() {
        plan.effect.torrent.peers.extend(&link.peers);
    }
    Ok((stage, plan, Some(link)))
}
