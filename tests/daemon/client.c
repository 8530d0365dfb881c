/* A static netlink client of its own: adds a policy and a larval state, dumps both tables, prints what came. */
#include <linux/netlink.h>
#include <linux/xfrm.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fd, seq;

/* Prints type, length, flags and a sum of each message's bytes, times left out, until the answer is whole. */
static void talk(int type, int flags, void *body, int size)
{
    struct { struct nlmsghdr head; char body[1024]; } message = {{NLMSG_LENGTH(size), type, NLM_F_REQUEST | flags, ++seq, 0}, ""};
    char buffer[16384];
    memcpy(message.body, body, size);
    if (send(fd, &message, message.head.nlmsg_len, 0) < 0) { perror("send"); return; }
    for (;;) {
        long got = recv(fd, buffer, sizeof buffer, 0);
        if (got <= 0) { perror("recv"); return; }
        for (struct nlmsghdr *head = (void *)buffer; NLMSG_OK(head, got); head = NLMSG_NEXT(head, got)) {
            unsigned sum = 0, length = head->nlmsg_len - NLMSG_HDRLEN;
            unsigned char *data = NLMSG_DATA(head);
            if (head->nlmsg_type == XFRM_MSG_NEWPOLICY)
                memset(&((struct xfrm_userpolicy_info *)data)->curlft.add_time, 0, 8);
            if (head->nlmsg_type == XFRM_MSG_NEWSA)
                memset(&((struct xfrm_usersa_info *)data)->curlft.add_time, 0, 8);
            if (head->nlmsg_type != NLMSG_ERROR)
                for (unsigned i = 0; i < length; i++) sum = sum * 31 + data[i];
            printf("type %u length %u flags %x seq %u sum %08x error %d\n", head->nlmsg_type, head->nlmsg_len,
                   head->nlmsg_flags, head->nlmsg_seq, sum, head->nlmsg_type == NLMSG_ERROR ? *(int *)data : 0);
            if (head->nlmsg_type == NLMSG_ERROR || head->nlmsg_type == NLMSG_DONE) return;
        }
    }
}

int main(void)
{
    struct xfrm_userpolicy_info policy = {.dir = XFRM_POLICY_OUT, .priority = 7};
    struct xfrm_userspi_info spi = {.min = 0x100, .max = 0x100};
    struct xfrm_userpolicy_id id = {.dir = XFRM_POLICY_OUT};
    struct xfrm_usersa_flush flush = {0};
    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_XFRM);
    policy.sel.family = spi.info.family = AF_INET;
    policy.sel.prefixlen_d = policy.sel.prefixlen_s = 32;
    inet_pton(AF_INET, "10.0.0.2", &policy.sel.daddr);
    inet_pton(AF_INET, "10.0.0.1", &policy.sel.saddr);
    spi.info.id.proto = 50;
    memcpy(&spi.info.id.daddr, &policy.sel.daddr, 16);
    memcpy(&spi.info.saddr, &policy.sel.saddr, 16);
    memset(&policy.lft, 0xff, 32);
    id.sel = policy.sel;
    talk(XFRM_MSG_NEWPOLICY, NLM_F_ACK, &policy, sizeof policy);
    talk(XFRM_MSG_NEWPOLICY, NLM_F_ACK, &policy, sizeof policy);
    talk(XFRM_MSG_ALLOCSPI, NLM_F_ACK, &spi, sizeof spi);
    talk(XFRM_MSG_GETPOLICY, NLM_F_DUMP, &id, sizeof id);
    talk(XFRM_MSG_GETSA, NLM_F_DUMP, &flush, 0);
    talk(XFRM_MSG_DELPOLICY, NLM_F_ACK, &id, sizeof id);
    talk(XFRM_MSG_FLUSHSA, NLM_F_ACK, &flush, sizeof flush);
    talk(XFRM_MSG_GETPOLICY, NLM_F_DUMP, &id, sizeof id);
    return close(fd);
}
