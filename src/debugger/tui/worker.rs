//! The session's side: does one request after the other and sends back what is to be seen then.
//!
//! A session blocks while its guest runs, and it stays on the thread that made it; the screen has one of its own.
use super::live::Live;
use super::picture::{Looker, Picture, Wants};
use crate::debugger::{Reply, Session};
use crossbeam_channel::{Receiver, Sender};

/// What the screen asks for.
#[derive(Clone, Debug)]
pub enum Request {
    /// Do a line of the prompt, and look then.
    Line(String, Wants),
    /// Look.
    Look(Wants),
}

/// What the session answers.
#[derive(Debug)]
pub struct Answer {
    /// What the line was answered, if there was one: `Ok(None)` if it means nothing.
    pub reply: Option<Result<Option<Reply>, String>>,
    /// What is to be seen; or why nothing is.
    pub picture: Result<Picture, String>,
}

/// Serves the screen until it is gone.
pub fn serve(session: &mut Session, requests: &Receiver<Request>, answers: &Sender<Answer>, live: &Live) {
    let mut looker = Looker::default();
    live.follow(session);
    while let Ok(request) = requests.recv() {
        let (reply, wants) = match request {
            Request::Line(line, wants) => {
                (Some(session.line(&line).map_err(|error| error.to_string())), wants)
            }
            Request::Look(wants) => (None, wants),
        };
        // It may be another one.
        live.follow(session);
        let picture = looker.look(session, &wants).map_err(|error| error.to_string());
        if answers.send(Answer { reply, picture }).is_err() {
            return;
        }
    }
}
