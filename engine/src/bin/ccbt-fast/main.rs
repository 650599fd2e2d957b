//! The command line of ccbt-fast: one file per command, and what they share.
//!
//! Exit codes are listed in [`args`]'s help text and decided in [`failure`].

mod args;
mod checkpoints;
mod config;
mod console;
mod control;
mod create;
mod daemon;
mod delete;
mod demo;
mod dht;
mod doctor;
mod download;
mod explain;
mod failure;
mod finding;
mod gauge;
mod info;
mod json;
mod limits;
mod lines;
mod link;
mod logging;
mod magnet;
mod manager;
mod manual;
mod reload;
mod relocate;
mod resume;
mod sandbox;
mod seed;
mod signals;
mod stream;
mod table;
mod top;
mod transfer;
mod tune;
mod units;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use ccbt_protocol::metainfo::escape_for_terminal;
use failure::Failure;

/// The program ends with any of its threads, and says why: others would wait for it. Optimised builds do so by
/// themselves (`panic = "abort"`).
fn end_with_any_thread() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if ccbt_shards::executor::is_being_made() {
            let failure = Failure::NoRuntime;
            report(&failure, false);
            std::process::exit(failure.exit_code().into());
        }
        tell(panic);
        std::process::abort();
    }));
}

fn main() -> ExitCode {
    end_with_any_thread();
    let cli = Cli::parse_from(args::with_default_command(std::env::args_os().collect()));
    let outcome = match &cli.command {
        Command::Download(args) => download::run(args),
        Command::Magnet(args) => magnet::run(args),
        Command::Stream(args) => stream::run(args),
        Command::Resume(args) => resume::run(args),
        Command::Checkpoints(args) => checkpoints::run(args),
        Command::Seed(args) => seed::run(args),
        Command::Create(args) => create::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Move(args) => relocate::run(args),
        Command::Delete(args) => delete::run(args),
        Command::Info(args) => info::run(args),
        Command::Config(args) => config::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Dht(args) => dht::run(args),
        Command::Daemon(args) => daemon::run(args),
        Command::Add(args) => control::add(args),
        Command::List(args) => control::list(args),
        Command::Show(args) => control::show(args),
        Command::Pause(args) => control::pause(args),
        Command::Remove(args) => control::remove(args),
        Command::Limit(args) => control::limit(args),
        Command::Recheck(args) => control::recheck(args),
        Command::Scrape(args) => control::scrape(args),
        Command::Explain(args) => explain::explain(args),
        Command::Peers(args) => explain::peers(args),
        Command::Trace(args) => explain::trace(args),
        Command::Queue(args) => control::queue(args),
        Command::ReloadFilter(args) => control::reload_filter(args),
        Command::Stats(args) => control::stats(args),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
        Command::Top(args) => top::run(args),
        Command::Events(args) => control::events(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Tune(args) => tune::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, cli.command.tells_json());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn report(failure: &Failure, tells_json: bool) {
    if tells_json && !failure.is_told() {
        let message = &failure.to_string();
        console::print_line(&json::to_line(&lines::Line::Error { message, retry: false }));
    }
    // What the failure quotes may be a stranger's; its lines are ours.
    let text = failure.to_string();
    let lines: Vec<_> = text.lines().map(escape_for_terminal).collect();
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr().lock(), "ccbt-fast: {}", lines.join("\n"));
}
