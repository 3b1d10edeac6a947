"""JavaScript of the page. Gradio runs each text in the browser."""

# Asks every second which model and server answer, and clicks #follow after a change. Gradio's own timer is no use: when the server is away,
# the timer's failure makes gradio reload the page, and the conversation is lost.
FOLLOW = """() => {
  let last;
  setInterval(async () => {
    try {
      const options = {method: "POST", headers: {"Content-Type": "application/json"}, body: '{"data": []}'};
      const [serving] = (await (await fetch(`${window.gradio_config.root}/gradio_api/run/serving`, options)).json()).data;
      const server = window.server_now = JSON.parse(serving).server;
      // After a restart cut an answer off, gradio ignores clicks until it has reloaded the page. So click until TELL has stored the server.
      if (serving !== last || server !== sessionStorage.getItem("server")) document.querySelector("#follow").click();
      last = serving;
    } catch {}  // the server does not answer now
  }, 1000);
}"""
# Runs on a click on #follow. Puts the server that the browser tab saw last into the facts: a reloaded page has the facts of the new server.
TELL = """facts => {
  const before = sessionStorage.getItem("server");
  sessionStorage.setItem("server", window.server_now);
  return before === null ? facts : {...facts, server: before};
}"""
# Moves the player to the time of a frame, a caption or a time in an answer that is clicked. Takes links and signs without width out of what
# is copied.
SEEK = """() => {
  document.addEventListener("click", event => {
    const at = event.target.closest("[data-seconds], #chat a[href^='#t=']");
    if (!at) return;
    event.preventDefault();
    const player = document.querySelector("#video video");
    if (player) player.currentTime = Number(at.dataset.seconds ?? at.getAttribute("href").slice(3));
  }, true);
  const write = navigator.clipboard?.writeText.bind(navigator.clipboard);
  if (write) navigator.clipboard.writeText = text => write(text.replace(/<a href="#t=[^>]*>|<\\/a>|<\\/?small>|[\\u200b\\u2063]/g, ""));
}"""
# On a phone the chat is below the clip: show it.
TO_CHAT = """() => {
  const chat = document.querySelector("#chat");
  if (chat.getBoundingClientRect().top > innerHeight / 2) chat.scrollIntoView({block: "start"});
}"""
# Downloads [name, type, text].
SAVE = """file => {
  const link = document.createElement("a"), [name, type, text] = JSON.parse(file);
  link.href = URL.createObjectURL(new Blob([text], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""
