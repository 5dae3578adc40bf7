//! A directory: its `index.html`, or a page of its entries.

use super::{
    Asked,
    conditions::{self, Known},
    content::{PAGE, finish, with_path},
    file::{self, Shown},
    listing,
};
use crate::{
    content::{resolve::Followed, store_stream::GetError},
    web::gate::{Reply, ReplyBody},
};

pub(super) fn answer(asked: &Asked<'_, '_>, followed: &Followed) -> Reply {
    let request = asked.request;
    if !asked.trailing_slash {
        let query = if request.query.is_empty() { "" } else { "?" };
        let to = format!("{}/{query}{}", request.path, request.query);
        return Reply { status: 301, headers: Vec::new(), body: ReplyBody::Absent(None) }
            .with("location", to);
    }
    let cid = followed.cid;
    match asked.node.follow(&cid, &["index.html".to_owned()], asked.scope) {
        Ok(index) => {
            if let Err(reply) = asked.denylist.check(&[index.cid]) {
                return reply;
            }
            // It is tagged as the directory: it is what this URL names.
            let name = Some("index.html".to_owned());
            let shown = Shown { cid: index.cid, block: None, tag: cid, name, kind: None };
            return file::answer(asked, followed, shown);
        }
        Err(GetError::NoSuchPath(_)) => {}
        Err(failed) => return asked.missing(&failed),
    }
    let etag = format!("\"DirIndex-{}_CID-{cid}\"", listing::VERSION);
    if let Some(reply) = conditions::ended(request, &etag, PAGE, Known::Present) {
        return reply;
    }
    let links = match asked.node.list(&cid, asked.scope, listing::ENTRIES_MAX + 1) {
        Ok(links) => links,
        Err(failed) => return asked.missing(&failed),
    };
    let reply = listing::reply(listing::page(&asked.cid, &asked.path, &links), etag);
    finish(asked, with_path(asked, followed, reply))
}
