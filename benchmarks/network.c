/* A TCP proxy on 127.0.0.1 that puts a network between a client and a server of this machine.
 *
 *     network SERVER_PORT RTT_MS MB_PER_S [ADDRESS]
 *
 * Prints the port it listens on, at 127.0.0.1 unless an address of this machine is given. What a client sends is held back for RTT_MS, so that each exchange
 * takes that much longer; the answers come at once. Every connection carries at most MB_PER_S
 * million bytes a second each way (0: no limit). For each line on standard input it prints what it
 * has seen so far as one line of JSON: requests by kind and bytes each way. It ends with its input.
 *
 * A request is recognised by its first line at the beginning of a read. That is exact for HTTP/1.1
 * clients that do not pipeline, since nothing follows a request before its answer.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_SIZE = 256 * 1024, MOST_BLOCKS = 64, EVENTS = 64 };

#define NEVER INT64_MAX
#define MILLISECOND INT64_C(1000000)

/* Bytes on their way, not to be delivered before `due`. */
struct block {
    struct block *next;
    int64_t due;
    size_t length, sent;
    char bytes[];
};

/* One direction of a connection. */
struct way {
    int from, to;
    bool upward, ended, closed;
    int64_t credited;
    double credit; /* bytes that may leave now */
    struct block *first, *last;
    int blocks;
};

struct connection {
    struct way up, down;
    struct connection *next;
};

enum kind { HEAD, GET, LIST, PUT, COPY, POST, DELETE, KINDS };
static const char *const names[KINDS] = {"HEAD", "GET", "LIST", "PUT", "COPY", "POST", "DELETE"};

static unsigned long long requests[KINDS], bytes_up, bytes_down;
static int64_t round_trip;
static double rate; /* bytes a nanosecond */

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 * MILLISECOND + t.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static bool begins(const char *data, const char *word)
{
    size_t length = strlen(word);
    return strncmp(data, word, length) == 0 && data[length] == ' ';
}

/* Count a request whose head begins `data`, which ends with a NUL. */
static void count(char *data)
{
    char *line_end = strchr(data, '\r');
    if (!line_end)
        return;
    int kind = -1;
    for (int i = 0; i < KINDS; i++)
        if (begins(data, names[i]))
            kind = i;
    if (kind < 0)
        return;
    if (kind == PUT) {
        char *head_end = strstr(data, "\r\n\r\n");
        char *source = strcasestr(data, "\r\nx-amz-copy-source:");
        if (source && (!head_end || source < head_end))
            kind = COPY;
    } else if (kind == GET) {
        *line_end = 0;
        if (strstr(data, "prefix=") || strstr(data, "list-type=") || strstr(data, "delimiter="))
            kind = LIST;
        *line_end = '\r';
    }
    requests[kind]++;
}

/* Take in what has arrived; answers whether anything has. */
static bool receive(struct way *w, int64_t at)
{
    static char buffer[READ_SIZE + 1];
    bool some = false;
    while (!w->ended && w->blocks < MOST_BLOCKS) {
        ssize_t n = read(w->from, buffer, READ_SIZE);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        some = true;
        if (n <= 0) {
            w->ended = true;
            break;
        }
        struct block *b = malloc(sizeof *b + n);
        if (!b)
            fail("malloc");
        *b = (struct block){.due = at + (w->upward ? round_trip : 0), .length = n};
        memcpy(b->bytes, buffer, n);
        if (w->upward) {
            bytes_up += n;
            buffer[n] = 0;
            count(buffer);
        } else {
            bytes_down += n;
        }
        if (w->last)
            w->last->next = b;
        else
            w->first = b;
        w->last = b;
        w->blocks++;
    }
    return some;
}

static void drop_first(struct way *w)
{
    struct block *b = w->first;
    w->first = b->next;
    if (!w->first)
        w->last = NULL;
    w->blocks--;
    free(b);
}

/* Deliver what is due. Answers when to try again; NEVER waits for the sockets. */
static int64_t deliver(struct way *w, int64_t at, bool *broken)
{
    if (rate > 0) {
        double most = rate * 4 * MILLISECOND + 65536;
        w->credit += (at - w->credited) * rate;
        w->credited = at;
        if (w->credit > most)
            w->credit = most;
    }
    while (w->first) {
        struct block *b = w->first;
        size_t amount = b->length - b->sent;
        if (b->due > at)
            return b->due;
        if (rate > 0) {
            /* Small pieces would cost more than they tell: wait for a packet's worth. */
            if (w->credit < amount && w->credit < 1500)
                return at + (int64_t)(16384 / rate);
            if (amount > w->credit)
                amount = w->credit;
        }
        ssize_t n = write(w->to, b->bytes + b->sent, amount);
        if (n < 0) {
            *broken = errno != EAGAIN && errno != EINTR;
            return NEVER;
        }
        w->credit -= n;
        b->sent += n;
        if (b->sent == b->length)
            drop_first(w);
    }
    if (w->ended && !w->closed) {
        shutdown(w->to, SHUT_WR);
        w->closed = true;
    }
    return NEVER;
}

/* Do all that can be done; answers when to come back, or -1 when the connection is over. */
static int64_t attend(struct connection *c)
{
    int64_t wake = NEVER;
    bool broken = false, again;
    do {
        int64_t at = now();
        /* Sockets report a change once: go on until neither has anything new. */
        again = receive(&c->up, at);
        again |= receive(&c->down, at);
        int64_t up = deliver(&c->up, at, &broken), down = deliver(&c->down, at, &broken);
        wake = up < down ? up : down;
    } while (again && !broken);
    return broken || (c->up.closed && c->down.closed) ? -1 : wake;
}

static void end(struct connection *c)
{
    while (c->up.first)
        drop_first(&c->up);
    while (c->down.first)
        drop_first(&c->down);
    close(c->up.from);
    close(c->up.to);
    free(c);
}

static void watch(int poller, int fd, struct connection *c)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static struct connection *welcome(int poller, int listener, struct sockaddr_in *server)
{
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        return NULL;
    int other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct connection *c = calloc(1, sizeof *c);
    if (other < 0 || !c)
        fail("no room for a connection");
    if (connect(other, (void *)server, sizeof *server))
        shutdown(client, SHUT_RDWR);
    int64_t at = now();
    c->up = (struct way){.from = client, .to = other, .upward = true, .credited = at};
    c->down = (struct way){.from = other, .to = client, .credited = at};
    watch(poller, client, c);
    watch(poller, other, c);
    return c;
}

/* Answer a line of standard input with the counters. */
static void report(void)
{
    char line[256];
    if (read(STDIN_FILENO, line, sizeof line) <= 0)
        exit(0);
    printf("{\"requests\": {");
    for (int i = 0; i < KINDS; i++)
        printf("%s\"%s\": %llu", i ? ", " : "", names[i], requests[i]);
    printf("}, \"up\": %llu, \"down\": %llu}\n", bytes_up, bytes_down);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 5) {
        fprintf(stderr, "usage: network SERVER_PORT RTT_MS MB_PER_S [ADDRESS]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN); /* a write says itself that the other side is gone */
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    round_trip = atof(argv[2]) * MILLISECOND;
    rate = atof(argv[3]) / 1000;

    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (argc == 5 && !inet_aton(argv[4], &own.sin_addr)) {
        fprintf(stderr, "network: %s is no address\n", argv[4]);
        return 2;
    }
    socklen_t size = sizeof own;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (void *)&own, size) || listen(listener, 1024))
        fail("listen");
    getsockname(listener, (void *)&own, &size);
    printf("%d\n", ntohs(own.sin_port));
    fflush(stdout);

    /* The two descriptors that are no connection are told apart by these addresses. */
    static char asked, called;
    int poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &called};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &asked;
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event);

    struct connection *all = NULL;
    for (;;) {
        int64_t wake = NEVER;
        for (struct connection **at = &all; *at;) {
            struct connection *c = *at;
            int64_t next = attend(c);
            if (next < 0) {
                *at = c->next;
                end(c);
                continue;
            }
            wake = next < wake ? next : wake;
            at = &c->next;
        }
        int64_t left = wake == NEVER ? 0 : wake - now();
        left = left < 0 ? 0 : left;
        struct timespec timeout = {left / (1000 * MILLISECOND), left % (1000 * MILLISECOND)};
        struct epoll_event events[EVENTS];
        int n = epoll_pwait2(poller, events, EVENTS, wake == NEVER ? NULL : &timeout, NULL);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &asked)
                report();
            else if (events[i].data.ptr == &called)
                for (struct connection *c; (c = welcome(poller, listener, &server));) {
                    c->next = all;
                    all = c;
                }
        }
    }
}
