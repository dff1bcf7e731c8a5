// A stream of events that Gradio's page ends itself, because it is left, a download begins or there is nothing to wait
// for, is at its end here. Gradio (6.31) takes it for a connection that broke, and says so on the page and the console.
(() => {
  const fetched = window.fetch;
  window.fetch = async (request, ...rest) => {
    if (!(request instanceof Request && request.url.includes("/queue/data?"))) return fetched(request, ...rest);
    const response = await fetched(new Request(request.url, { headers: request.headers }));
    if (!response.body) return response;
    const reader = response.body.getReader();
    const end = () => reader.cancel();
    if (request.signal.aborted) end();
    else request.signal.addEventListener("abort", end);
    const pull = async (page) => {
      const { done, value } = await reader.read();
      if (done) page.close();
      else page.enqueue(value);
    };
    return new Response(new ReadableStream({ pull, cancel: end }), response);
  };
})();
