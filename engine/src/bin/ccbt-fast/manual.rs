//! `completions` and `man`: what packages need, made from the options themselves.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::{Cli, CompletionsArgs, ManArgs, ShellArg};
use crate::failure::Failure;

/// Prints a script for a shell.
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let shell = match args.shell {
        ShellArg::Bash => Shell::Bash,
        ShellArg::Zsh => Shell::Zsh,
        ShellArg::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ccbt-fast", &mut script);
    std::io::stdout().write_all(&script).map_err(Failure::system("print the script"))
}

/// Writes `ccbt-fast.1` and a page for each command into a folder. No date is in them: the same program always gives the
/// same pages.
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    let dir = &args.dir;
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(Failure::system(format!("write manual pages into {}", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_all_of_its_options() {
        let dir = tempfile::tempdir().expect("a folder");
        man(&ManArgs { dir: dir.path().join("new") }).expect("they are written");
        let page = |name: &str| {
            let page = std::fs::read_to_string(dir.path().join("new").join(name));
            // roff writes a hyphen as \-.
            page.unwrap_or_else(|error| panic!("{name}: {error}")).replace("\\-", "-")
        };
        let root = Cli::command();
        for command in root.get_subcommands() {
            let text = page(&format!("ccbt-fast-{}.1", command.get_name()));
            let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
            for option in shown.filter_map(|arg| arg.get_long()) {
                assert!(text.contains(&format!("--{option}")), "{}: --{option}", command.get_name());
            }
            assert!(page("ccbt-fast.1").contains(&format!("ccbt-fast-{}(1)", command.get_name())));
        }
        page("ccbt-fast-checkpoints-list.1");
    }

    #[test]
    fn every_command_and_option_is_completed() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ccbt-fast", &mut script);
            let script = String::from_utf8(script).expect("text");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
                for option in
                    command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long())
                {
                    assert!(script.contains(option), "{shell}: --{option}");
                }
            }
        }
    }
}
