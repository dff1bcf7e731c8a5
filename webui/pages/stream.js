// A stream of events that Gradio's page ends itself, because it is left, a download begins or there is nothing to wait
// for, is at its end here. Gradio (6.31) takes it for a connection that broke, and says so on the page and the console.
// One that does break (the network was away, the computer asleep, the server started anew) Gradio takes for open as long
// as nothing is pending, and waits for ever at the next click: so the page is loaded again when the server is back.
(() => {
  const fetched = window.fetch;
  let lost = false;
  const back = async () => {
    const answer = await fetched("./gradio_api/app_id", { cache: "no-store" }).catch(() => null);
    if (answer?.ok) location.reload();
    else setTimeout(back, 2000);
  };
  const recover = () => {
    if (lost) return;
    lost = true;
    setTimeout(() => {
      const told = document.createElement("div");
      told.className = "lost";
      told.role = "alert";
      told.textContent = "The connection was lost. This page goes on by itself when it is back.";
      document.body.append(told);
      back();
    }, 1000); // a page that is being left has none of it
  };
  window.fetch = async (request, ...rest) => {
    if (!(request instanceof Request && /\/(queue\/data\?|heartbeat\/)/.test(request.url))) return fetched(request, ...rest);
    const response = await fetched(new Request(request.url, { headers: request.headers }));
    if (!response.body) return response;
    const reader = response.body.getReader();
    let ended = false;
    const end = () => {
      ended = true;
      reader.cancel();
    };
    if (request.signal.aborted) end();
    else request.signal.addEventListener("abort", end);
    const pull = async (page) => {
      try {
        const { done, value } = await reader.read();
        if (!done) return page.enqueue(value);
        if (!ended && request.url.includes("/heartbeat/")) recover(); // which lasts as long as the server
        page.close();
      } catch {
        if (!ended) recover();
        page.close();
      }
    };
    return new Response(new ReadableStream({ pull, cancel: end }), response);
  };
})();
