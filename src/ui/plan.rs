//! A plan as a person reads it, before anything is done.

use super::Ui;
use crate::plan::recovery::{Action, Effect, Plan, Replacement, Source, Step};

impl Ui {
    /// Shows a plan on standard error, or as JSON on standard output.
    pub fn plan(&self, plan: &Plan) -> anyhow::Result<()> {
        if self.is_json() {
            return self.json(plan);
        }
        self.info(&format!("plan: {}", plan.purpose));
        for (index, step) in plan.steps.iter().enumerate() {
            self.info(&format!("  {}. {}", index + 1, step_line(step)));
        }
        for remark in &plan.remarks {
            self.info(&format!("  {remark}"));
        }
        Ok(())
    }
}

fn step_line(step: &Step) -> String {
    let effect = match step.effect {
        Effect::Adds => "adds",
        Effect::Adjusts => "adjusts",
        Effect::SetsAside => "sets aside",
        Effect::Replaces => "replaces",
        Effect::Stops => "stops",
        Effect::Starts => "starts",
    };
    format!("[{effect}] {}, because {}", action_words(&step.action), step.reason)
}

fn action_words(action: &Action) -> String {
    match action {
        Action::FinishReplacement(journal) => format!("finish '{}'", journal.operation),
        Action::SetOwner { uid } => format!("give every entry to user {uid}"),
        Action::SetMode { place, mode } => format!("set the mode of '{place}' to {mode:04o}"),
        Action::RecreateDirectory { place } => format!("make the directory '{place}' anew"),
        Action::SetAsideFile { place } => format!("move '{place}' out of the way"),
        Action::Stop { pid } => format!("stop the server (process {pid}) by a fast shutdown"),
        Action::Replace(replacement) => replacement_words(replacement),
        Action::Start => "start the server and verify it by two connections".to_owned(),
    }
}

fn replacement_words(replacement: &Replacement) -> String {
    let sources: Vec<String> = replacement.sources.iter().map(source_words).collect();
    let what = sources.join(", or if that cannot be used, ");
    match &replacement.aside {
        Some(aside) => format!("set the present cluster aside as {aside}, and {what}"),
        None => what,
    }
}

fn source_words(source: &Source) -> String {
    match source {
        Source::Fresh => "make a new cluster".to_owned(),
        Source::Backup { name, replay } if replay.segments.is_empty() => format!("restore {name}"),
        Source::Backup { name, replay } => {
            let count = crate::format::counted(replay.segments.len(), "WAL segment");
            format!("restore {name} and replay {count} written since")
        }
    }
}
