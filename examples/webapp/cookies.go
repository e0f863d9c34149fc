package main

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	sessionCookie = "session" // who is signed in
	pendingCookie = "sign-in" // a sign-in, until its callback
)

// cookies are all that a browser holds. They hold no token, and cannot be guessed or changed.
type cookies struct {
	secure     bool
	sessionKey []byte
	pendingKey []byte
}

func newCookies(key []byte, secure bool) (*cookies, error) {
	if len(key) < 32 {
		return nil, errors.New("key for cookies has less than 32 bytes")
	}
	c := &cookies{secure: secure}
	var err error
	if c.sessionKey, err = hkdf.Key(sha256.New, key, nil, sessionCookie, 32); err != nil {
		return nil, err
	}
	if c.pendingKey, err = hkdf.Key(sha256.New, key, nil, pendingCookie, 32); err != nil {
		return nil, err
	}
	return c, nil
}

// startSession signs a user in for sessionLife.
func (c *cookies) startSession(w http.ResponseWriter, user string) {
	c.set(w, sessionCookie, c.signed(user, time.Now().Add(sessionLife)), sessionLife)
}

// session returns the user whose browser sent r.
func (c *cookies) session(r *http.Request) (user string, ok bool) {
	value := c.get(r, sessionCookie)
	user, rest, _ := strings.Cut(value, ".")
	until, _, _ := strings.Cut(rest, ".")
	seconds, err := strconv.ParseInt(until, 10, 64)
	if err != nil {
		return "", false
	}
	end := time.Unix(seconds, 0)
	if !hmac.Equal([]byte(value), []byte(c.signed(user, end))) || !time.Now().Before(end) {
		return "", false
	}
	return user, true
}

func (c *cookies) signed(user string, until time.Time) string {
	value := user + "." + strconv.FormatInt(until.Unix(), 10)
	mac := hmac.New(sha256.New, c.sessionKey)
	mac.Write([]byte(value))
	return value + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// name returns a cookie's full name. Browsers let no neighbouring host set a cookie with the prefix
// __Host-, and accept it over https only.
func (c *cookies) name(name string) string {
	if c.secure {
		return "__Host-" + name
	}
	return name
}

func (c *cookies) get(r *http.Request, name string) string {
	cookie, err := r.Cookie(c.name(name))
	if err != nil {
		return ""
	}
	return cookie.Value
}

// set sets a cookie. A browser sends it back when it follows a link or redirect from another site,
// such as the callback, but not with what other sites post or embed.
func (c *cookies) set(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{Name: c.name(name), Value: value, Path: "/", MaxAge: int(life.Seconds()),
		HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteLaxMode})
}

func (c *cookies) clear(w http.ResponseWriter, name string) {
	c.set(w, name, "", -time.Second)
}
